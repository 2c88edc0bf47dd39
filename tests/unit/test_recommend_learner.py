"""What recommendation promises: bounded, exact to resume, deterministic, never what was excluded."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.recommend.blend import POPULAR, Recommender, freeze
from models.recommend.covisitation import HALF_LIFE as PAIR_HALF_LIFE
from models.recommend.covisitation import CoVisitation
from models.recommend.decay import LIMIT, ForwardDecay
from models.recommend.learner import RecommendLearner
from models.recommend.popularity import HALF_LIFE, Popularity
from schemas.event import Role
from schemas.example import Interaction


def touch(item: str, *before: str, ts: int = 0, role: Role = "view") -> Interaction:
    return Interaction(item_id=item, role=role, ts=ts, partition=0, offset=0, index=0, before=before)


def taught(*touches: Interaction) -> RecommendLearner:
    learner = RecommendLearner()
    for one in touches:
        learner.learn(one)
    return learner


def nothing(item: str) -> bool:
    return False


def ids(recommender: Recommender, *last: str, exclude: Callable[[str], bool] = nothing, k: int = 10) -> list[str]:
    return [item.item_id for item in recommender.recommend(last, exclude, k)]


items = st.sampled_from([f"i{n}" for n in range(12)])
touches = st.builds(
    lambda item, before, ts: touch(item, *before, ts=ts), items, st.lists(items), st.integers(0, 10**12)
)


def small() -> RecommendLearner:
    """Bounds so tight that every cut happens."""
    return RecommendLearner(Popularity(bound=4), CoVisitation(bound=6, neighbours_bound=2))


@settings(max_examples=150, deadline=None)
@given(st.lists(touches), st.lists(touches))
def test_a_restored_learner_goes_on_to_the_bit(before: list[Interaction], after: list[Interaction]) -> None:
    undisturbed, interrupted = small(), small()
    for one in before:
        undisturbed.learn(one)
        interrupted.learn(one)
    resumed = RecommendLearner.from_bytes(interrupted.to_bytes())
    for one in after:
        undisturbed.learn(one)
        resumed.learn(one)
    assert resumed.to_bytes() == undisturbed.to_bytes()
    assert resumed.scoring() == undisturbed.scoring() == undisturbed.recommender().to_bytes()


@settings(max_examples=150, deadline=None)
@given(st.lists(touches, max_size=40), st.lists(items, max_size=7), st.sets(items), st.integers(0, 8))
def test_answers_are_ordered_distinct_and_never_excluded(
    seen: list[Interaction], last: list[str], excluded: set[str], k: int
) -> None:
    recommender = taught(*seen).recommender()
    answer = recommender.recommend(tuple(last), excluded.__contains__, k)

    assert len(answer) <= k
    assert len({item.item_id for item in answer}) == len(answer)
    assert not excluded & {item.item_id for item in answer}
    assert [item.score for item in answer] == sorted((item.score for item in answer), reverse=True)
    reloaded = Recommender.from_bytes(recommender.to_bytes())
    assert reloaded.recommend(tuple(last), excluded.__contains__, k) == answer


def test_neighbours_come_first_and_popular_items_fill_up() -> None:
    recommender = taught(
        touch("tea", role="conversion"),
        touch("cup", "tea", role="conversion"),
        *[touch("bag") for _ in range(9)],
    ).recommender()
    answer = recommender.recommend(("tea",), {"tea"}.__contains__, 5)
    assert [(item.item_id, item.reason) for item in answer] == [
        ("cup", "often bought with tea"),
        ("bag", "popular now"),
    ]


def test_the_reason_names_the_item_that_spoke_loudest() -> None:
    learner = taught(touch("cup", "tea"), touch("cup", "tea"), touch("cup", "pen"), *[touch("pen")] * 8)
    (cup,) = learner.recommender().recommend(("pen", "tea"), {"pen", "tea"}.__contains__, 1)
    assert cup.reason == "often looked at with tea"


def test_a_seed_may_be_recommended_unless_the_caller_excludes_it() -> None:
    recommender = taught(touch("cup", "tea")).recommender()
    assert ids(recommender, "tea", "cup") == ["cup", "tea"]
    assert ids(recommender, "tea", "cup", exclude={"tea", "cup"}.__contains__) == []


def test_newer_seeds_count_more() -> None:
    recommender = taught(touch("near_tea", "tea"), touch("near_pen", "pen")).recommender()
    assert ids(recommender, "tea", "pen", k=2) == ["near_tea", "near_pen"]
    assert ids(recommender, "pen", "tea", k=2) == ["near_pen", "near_tea"]


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_ties_are_broken_by_item_id(order: tuple[str, ...]) -> None:
    learner = taught(*[touch(item, "tea") for item in order])
    assert ids(learner.recommender(), "tea", k=3) == ["a", "b", "c"]
    assert ids(taught(*map(touch, order)).recommender(), k=3) == ["a", "b", "c"]


def test_what_everybody_buys_is_not_everythings_neighbour() -> None:
    everyday = [touch("bread", f"other{n}") for n in range(50)]
    learner = taught(*everyday, touch("bread", "tea"), touch("bread", "tea"), touch("cup", "tea"))
    assert ids(learner.recommender(), "tea", k=1) == ["cup"]
    assert ids(learner.recommender(), k=1) == ["bread"]


def test_nobody_known_is_shown_what_is_popular_and_an_empty_model_nothing() -> None:
    assert ids(RecommendLearner().recommender(), "tea") == []
    assert ids(taught(touch("bag")).recommender(), "unknown") == ["bag"]


def test_popularity_fades_by_half_each_half_life() -> None:
    popularity = Popularity()
    for one in (touch("old", ts=0), touch("old", ts=0), touch("new", ts=HALF_LIFE), touch("late", ts=0)):
        popularity.learn(one)
    assert popularity.shares() == {"old": 1.0, "new": 1.0, "late": 0.5}


def test_the_order_of_late_touches_does_not_matter() -> None:
    times = [random.Random(1).randrange(HALF_LIFE) for _ in range(50)]
    early, late = Popularity(), Popularity()
    for popularity, order in ((early, times), (late, [times[0], *reversed(times[1:])])):
        for ts in order:
            popularity.learn(touch(f"i{ts % 5}", ts=ts))
    assert early.shares() == pytest.approx(late.shares(), rel=1e-9)


def test_one_date_in_the_far_future_does_not_wipe_out_what_is_known() -> None:
    learner = taught(*[touch("bag")] * 10, touch("evil", ts=253_402_300_799_999), touch("bag", ts=1))
    assert ids(learner.recommender(), k=2) == ["bag", "evil"]


def test_sums_are_brought_down_before_a_float_overflows() -> None:
    popularity, covisitation = Popularity(), CoVisitation()
    for week in range(int(LIMIT) * 12):
        ts = week * PAIR_HALF_LIFE
        for one in (touch("bag", "tea", ts=ts), touch("tea", "bag", ts=ts)):
            popularity.learn(one)
            covisitation.learn(one)
    recommender = Recommender(freeze(popularity, covisitation))
    assert max(popularity.counts.values()) < 2.0 ** (LIMIT + 4)
    assert ids(recommender, "tea", k=1) == ["bag"]


def test_rebasing_keeps_every_ratio() -> None:
    decay = ForwardDecay(1_000)
    old = decay.weight(0)
    for step in range(1, int(LIMIT) + 1):
        newest = decay.weight(step * 1_000)
    factor = decay.rebase()
    assert factor is not None
    assert old * factor / (newest * factor) == 2.0**-LIMIT
    assert decay.weight(int(LIMIT) * 1_000) == newest * factor


def test_items_and_neighbours_are_bounded() -> None:
    learner = RecommendLearner(Popularity(bound=40), CoVisitation(bound=40, neighbours_bound=5))
    chance = random.Random(4)
    for ts in range(5_000):
        learner.learn(touch(f"i{chance.randrange(500)}", *(f"i{chance.randrange(500)}" for _ in range(4)), ts=ts))
        assert len(learner.popularity.counts) <= 50
    pairs = learner.covisitation.pairs()
    # One interaction may bring several new items before the bound is looked at again.
    assert len(learner.covisitation) <= 55
    assert pairs.lengths.max() <= 10
    assert pairs.neighbours.max() < len(pairs.items)


def test_the_least_known_are_forgotten_first() -> None:
    learner = RecommendLearner(Popularity(bound=4), CoVisitation(bound=4))
    for one in (*[touch("bag", "tea"), touch("tea", "bag")] * 5, *[touch(f"once{n}") for n in range(30)]):
        learner.learn(one)
    assert {"bag", "tea"} <= set(learner.popularity.counts)
    assert learner.covisitation.neighbours("tea").keys() == {"bag"}


def test_a_snapshot_keeps_the_strongest_neighbours() -> None:
    shown = [touch(f"n{n:02}", "tea") for n in range(60) for _ in range(1 + n % 30)]
    learner = RecommendLearner(covisitation=CoVisitation(neighbours_bound=60))
    for one in shown:
        learner.learn(one)
    counts = learner.covisitation.neighbours("tea")
    answer = learner.recommender().recommend(("tea",), {"tea"}.__contains__, 5)
    assert {item.item_id for item in answer} <= set(sorted(counts, key=lambda item: -counts[item])[:20])
    assert len(learner.recommender().frozen.popular) <= POPULAR


def test_a_snapshot_whose_parts_do_not_fit_is_refused() -> None:
    frozen = taught(touch("cup", "tea")).recommender().frozen
    for broken in (
        msgspec.structs.replace(frozen, ends=frozen.ends[:-4]),
        msgspec.structs.replace(frozen, scores=frozen.scores + b"\0\0\0\0"),
    ):
        with pytest.raises(ValueError, match=r"length|longer|shorter"):
            Recommender(broken)
