"""What a model's life promises: only sealed snapshots are loaded, versions go forward, each record counts once."""

from __future__ import annotations

import hmac
import pickle
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.lifecycle.learners import RECOMMEND, LearnerSet
from models.lifecycle.registry import Champions
from models.lifecycle.snapshot import Snapshot, SnapshotRefused, open_sealed, seal
from models.outcomes import features
from models.outcomes.learner import WARM
from schemas.example import Example, Interaction
from stream.agents.learn import Learning, LearnSession
from stream.delivery.fence import Fence
from stream.metrics import Metrics
from stream.settings import Settings
from stream.stages.batch import NOWHERE
from tests.unit.reference import Record

KEY = b"k" * 32
NAMES = ("a", "b")
SCHEMA = "s1"


def example(offset: int, *, outcome: str = "buy", partition: int = 0, index: int = 0, schema: str = SCHEMA) -> Example:
    return Example(
        example_id=f"e{offset}",
        outcome=outcome,
        stage="fulfilled" if offset % 5 == 4 else "exposed",
        label=int(offset % 5 == 4),
        partition=partition,
        offset=offset,
        index=index,
        exposed_at=0,
        features=(float(offset % 3), float(offset % 7)),
        schema=schema,
    )


def interaction(offset: int, *, partition: int = 1) -> Interaction:
    before = tuple(f"i{(offset - back) % 9}" for back in (1, 2))
    return Interaction(
        item_id=f"i{offset % 9}", role="view", ts=offset, partition=partition, offset=offset, index=0, before=before
    )


def taught(records: list[Example | Interaction]) -> LearnerSet:
    learners = LearnerSet(NAMES, SCHEMA)
    for record in records:
        assert learners.learn(record)
    return learners


def mixed(first: int, last: int) -> list[Example | Interaction]:
    return [r for n in range(first, last) for r in (example(n), example(n, outcome="churn", index=1), interaction(n))]


def snapshot(version: int = 7, records: int = 20, matured: int = WARM) -> Snapshot:
    """Of a model that was taught `records` and, unless said otherwise, has just seen enough labels to speak."""
    labels = [replace(example(records + n), stage="matured") for n in range(matured)]
    return taught([*(example(n) for n in range(records)), *labels]).snapshots(version, 1_000)[0]


def test_a_cold_model_is_published_and_scores_nothing() -> None:
    champions = Champions(SCHEMA)
    cold = snapshot(matured=WARM - 1)
    assert not champions.swap(cold)
    assert champions.outcome("buy") is None
    resumed = LearnerSet.restore([cold], NAMES, SCHEMA)
    assert resumed.learn(replace(example(1_000), stage="matured"))
    assert champions.swap(resumed.snapshots(8, 1_000)[0])
    assert champions.outcome("buy") is not None


def test_a_sealed_snapshot_opens_as_it_was() -> None:
    assert open_sealed(seal(snapshot(), KEY), KEY) == snapshot()


@settings(deadline=None)
@given(st.data())
def test_one_altered_byte_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(seal(snapshot(), KEY))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotRefused, match="not signed"):
        open_sealed(bytes(sealed), KEY)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 500])
def test_a_snapshot_cut_short_is_refused(kept: int) -> None:
    with pytest.raises(SnapshotRefused):
        open_sealed(seal(snapshot(), KEY)[:kept], KEY)


def test_another_key_and_no_signature_are_refused() -> None:
    with pytest.raises(SnapshotRefused):
        open_sealed(seal(snapshot(), KEY), b"x" * 32)
    with pytest.raises(SnapshotRefused):
        open_sealed(msgspec.msgpack.encode(snapshot()), KEY)


def test_something_else_signed_with_the_key_is_refused() -> None:
    body = msgspec.msgpack.encode(snapshot())
    with pytest.raises(SnapshotRefused, match="not signed"):
        open_sealed(hmac.digest(KEY, body, "sha256") + body, KEY)


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Bomb, "exploded", True)


def test_a_signed_pickle_is_refused_and_never_run() -> None:
    body = pickle.dumps(Bomb())
    signed = hmac.digest(KEY, b"nudge snapshot 1\x00" + body, "sha256") + body
    with pytest.raises(SnapshotRefused, match="another version"):
        open_sealed(signed, KEY)
    assert not Bomb.exploded


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        seal(snapshot(), b"short")


def test_champions_swap_forward_only() -> None:
    champions = Champions(SCHEMA)
    assert champions.outcome("buy") is None
    assert champions.swap(snapshot(version=7))
    assert not champions.swap(snapshot(version=7))
    with pytest.raises(SnapshotRefused, match="older than 7"):
        champions.swap(snapshot(version=6))
    assert champions.swap(snapshot(version=8))
    held = champions.outcome("buy")
    assert held is not None
    assert held[1] == 8


def test_champions_go_back_on_an_operators_word_alone() -> None:
    champions = Champions(SCHEMA)
    assert champions.swap(snapshot(version=8))
    assert champions.swap(snapshot(version=6), pinned=True)
    assert not champions.swap(snapshot(version=6), pinned=True)
    with pytest.raises(SnapshotRefused, match="older than 6"):
        champions.swap(snapshot(version=5))
    assert champions.swap(snapshot(version=8))
    held = champions.outcome("buy")
    assert held is not None
    assert held[1] == 8


def test_a_pin_does_not_make_another_layout_fit() -> None:
    champions = Champions(SCHEMA)
    champions.swap(snapshot(version=8))
    with pytest.raises(SnapshotRefused, match="feature layout 's2'"):
        champions.swap(replace(snapshot(version=6), schema="s2"), pinned=True)
    held = champions.outcome("buy")
    assert held is not None
    assert held[1] == 8


def test_a_promotion_changes_whose_scorer_is_published_and_nothing_that_is_learned() -> None:
    learners = taught([*mixed(0, 20), *(replace(example(20 + n), stage="matured") for n in range(WARM))])
    plain, promoted = (learners.snapshots(9, 0, who)[0] for who in ({}, {"buy": "regression-wait"}))
    assert plain.champion == learners.outcomes["buy"].champion != "regression-wait"
    assert promoted.champion == "regression-wait"
    assert promoted.scoring != plain.scoring
    assert replace(promoted, champion=plain.champion, scoring=plain.scoring) == plain
    # Who was promoted by another release, and is nobody here, does not speak.
    assert learners.snapshots(9, 0, {"buy": "oracle", "recommend": "oracle"}) == learners.snapshots(9, 0)


def test_a_batch_that_took_the_lineup_keeps_its_versions() -> None:
    champions = Champions(SCHEMA)
    champions.swap(snapshot(version=7))
    lineup = champions.current
    champions.swap(snapshot(version=8, records=40))
    champions.swap(taught([interaction(1)]).snapshots(9, 0)[0])

    held = lineup.outcome("buy")
    assert held is not None
    assert held[1] == 7
    assert lineup.recommender() is None
    assert champions.recommender() is not None


def test_another_feature_layout_is_refused_and_the_champion_stays() -> None:
    champions = Champions(SCHEMA)
    champions.swap(snapshot(version=7))
    with pytest.raises(SnapshotRefused, match="feature layout 's2'"):
        champions.swap(msgspec.structs.replace(snapshot(version=8), schema="s2"))
    with pytest.raises(SnapshotRefused, match="feature layout 's1'"):
        Champions("s2").swap(msgspec.structs.replace(snapshot(), schema="s2"))
    held = champions.outcome("buy")
    assert held is not None
    assert held[1] == 7


def test_contents_that_do_not_decode_are_refused() -> None:
    with pytest.raises(SnapshotRefused, match="does not decode"):
        Champions(SCHEMA).swap(msgspec.structs.replace(snapshot(), scoring=b"\xc1"))
    with pytest.raises(SnapshotRefused, match="does not decode"):
        LearnerSet.restore([msgspec.structs.replace(snapshot(), learning=b"\xc1")], NAMES, SCHEMA)


def test_a_second_copy_is_learned_once() -> None:
    records = mixed(0, 30)
    once, twice = taught(records), taught(records)
    for record in records[10:]:
        assert not twice.learn(record)
    assert twice.snapshots(5, 0) == once.snapshots(5, 0)
    assert (twice.learned, twice.repeated) == (90, 80)


def test_positions_are_kept_per_source_partition() -> None:
    learners = taught([example(10, partition=3), example(2, partition=4), example(10, partition=3, index=1)])
    assert learners.positions == {3: (0, 10, 1), 4: (0, 2, 0)}
    assert not learners.learn(example(10, partition=3, index=1))
    assert learners.learn(example(11, partition=3))


@given(st.lists(st.tuples(*[st.integers(0, n) for n in (1, 2, 9, 1)]), max_size=30))
def test_a_record_is_learned_only_above_all_of_its_partition(places: list[tuple[int, int, int, int]]) -> None:
    learners, last = LearnerSet(NAMES, SCHEMA), dict[int, tuple[int, int, int]]()
    for partition, *place in places:
        position = (place[0], place[1], place[2])
        record = example(position[1], partition=partition, index=position[2])
        taken = learners.learn(replace(record, generation=position[0]))
        assert taken == (position > last.get(partition, (-1, -1, -1)))
        if taken:
            last[partition] = position
    assert learners.positions == last


def test_the_examples_of_a_log_made_anew_are_no_copies() -> None:
    learners = taught([example(40)])
    anew = replace(example(0), generation=1)
    assert learners.learn(anew)
    assert not learners.learn(anew)
    assert not learners.learn(example(41))
    restored = LearnerSet.restore(learners.snapshots(7, 0), NAMES, SCHEMA)
    assert restored.positions == {0: (1, 0, 0)}


def test_a_snapshot_of_before_there_were_generations_is_resumed_as_of_the_first() -> None:
    old = [replace(one, positions={0: (9, 1)}) for one in taught(mixed(0, 10)).snapshots(5, 0)]
    restored = LearnerSet.restore([open_sealed(seal(one, KEY), KEY) for one in old], NAMES, SCHEMA)
    assert not restored.learn(example(9, index=1))
    assert restored.learn(example(10))


def test_an_example_of_before_there_were_generations_is_of_the_first() -> None:
    written = msgspec.json.encode(example(3))
    assert b"generation" not in written
    assert msgspec.json.decode(written, type=Example).generation == 0


def test_restored_learners_go_on_as_the_undisturbed_ones() -> None:
    undisturbed = taught(mixed(0, 60))
    sealed = [seal(one, KEY) for one in taught(mixed(0, 40)).snapshots(40, 0)]
    resumed = LearnerSet.restore([open_sealed(data, KEY) for data in sealed], NAMES, SCHEMA)

    # The broker delivers again from a little before the snapshot.
    for record in mixed(35, 60):
        resumed.learn(record)

    assert resumed.repeated == 15
    assert resumed.snapshots(60, 9) == undisturbed.snapshots(60, 9)
    assert [s.model for s in resumed.snapshots(60, 9)] == ["buy", "churn", RECOMMEND]


def test_an_example_of_another_layout_is_passed_and_counted() -> None:
    learners = taught([example(0)])
    assert not learners.learn(example(1, schema="s2"))
    assert not learners.learn(example(2, schema="s2", outcome="new"))
    assert (learners.learned, learners.refused, sorted(learners.outcomes)) == (1, 2, ["buy"])
    assert learners.learn(example(3))


def test_snapshots_of_different_moments_are_not_mixed() -> None:
    early, late = taught(mixed(0, 10)).snapshots(10, 0), taught(mixed(0, 12)).snapshots(12, 0)
    with pytest.raises(SnapshotRefused, match="together"):
        LearnerSet.restore([early[0], late[1]], NAMES, SCHEMA)


def test_learners_of_another_layout_are_not_resumed() -> None:
    with pytest.raises(SnapshotRefused, match="from the beginning"):
        LearnerSet.restore([snapshot()], ("a", "z"), "s2")


def test_learners_that_took_codes_for_quantities_are_not_resumed() -> None:
    with pytest.raises(SnapshotRefused, match="from the beginning"):
        LearnerSet.restore([snapshot()], NAMES, SCHEMA, (1,))


def test_every_learner_knows_which_columns_are_codes() -> None:
    learners = LearnerSet(NAMES, SCHEMA, (1,))
    assert learners.learn(example(0))
    resumed = LearnerSet.restore(learners.snapshots(0, 0), NAMES, SCHEMA, (1,))
    assert resumed.learn(example(1, outcome="churn"))
    assert {name: learner.categorical for name, learner in resumed.outcomes.items()} == {"buy": (1,), "churn": (1,)}


async def test_the_learn_agents_learners_know_them_too() -> None:
    fence = Fence(owner="w", epoch=1, next=0, clock=0, watermark=0, last_hash="", emitted=NOWHERE)
    session = LearnSession(Learning(Settings(), cast(Any, None), KEY, Metrics(), lambda partition: 0), 0, fence)
    whole = replace(example(0), features=(0.0,) * len(features.NAMES), schema=features.SCHEMA)
    await session.handle([Record(0, 0, msgspec.json.encode(whole))])
    assert session.learners.outcomes["buy"].categorical == features.CATEGORICAL


def test_nothing_restored_is_an_empty_set() -> None:
    empty = LearnerSet.restore([], NAMES, SCHEMA)
    assert empty.snapshots(0, 0) == []
    assert empty.learn(example(0))
