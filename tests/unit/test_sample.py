"""The bundled sample: what it promises to hold, and that the broken records are broken in the way they say."""

import os
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from schemas.event import Event
from schemas.privacy import PURPOSES
from schemas.reasons import Rejected
from schemas.wire import decode_record
from stream.sample.broken import BROKEN, DUPLICATES, mix
from stream.sample.build import build
from stream.sample.log import FOLDER, SampleLog

DAY = 86_400_000


@cache
def sample() -> SampleLog:
    return SampleLog.load()


@cache
def decoded() -> list[Event]:
    """Every event, by way of the bytes that a producer sends."""
    events = [decode_record(value) for _, value, _ in sample().events()]
    return [event for event in events if isinstance(event, Event)]


def test_every_event_decodes_as_a_native_event_under_its_key_and_time() -> None:
    triples = list(sample().events())

    assert len(triples) == len(decoded()) == len(sample())
    for (key, _, ts), event in zip(triples, decoded(), strict=True):
        assert key == event.user_id.encode()
        assert ts == event.ts


def test_the_log_is_in_event_time_order_and_no_id_occurs_twice() -> None:
    times = [event.ts for event in decoded()]

    assert times == sorted(times)
    assert len({event.event_id for event in decoded()}) == len(decoded())


def test_the_first_fifty_thousand_events_show_every_kind_of_behaviour() -> None:
    events = decoded()[:50_000]

    kinds = Counter(event.type for event in events)
    assert len({event.user_id for event in events}) >= 1_000
    assert events[-1].ts - events[0].ts > 180 * DAY
    assert min(kinds[name] for name in ("campaign_exposure", "coupon_redemption", "review", "refund")) > 100
    assert kinds["purchase"] > 40_000


def test_a_redemption_follows_an_exposure_of_the_same_household_to_the_same_campaign() -> None:
    exposed: dict[tuple[str, str | None], int] = {}
    redeemed: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for event in decoded():
        if event.type == "campaign_exposure":
            exposed[event.user_id, event.campaign_id] = event.ts
        elif event.type == "coupon_redemption":
            redeemed[event.user_id, event.campaign_id].append(event.ts)

    assert len(redeemed) > 300
    for pair, times in redeemed.items():
        assert min(times) > exposed[pair]


def test_a_review_follows_an_order_of_that_item_by_the_same_person() -> None:
    bought: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    reviews = []
    for event in decoded():
        if event.type == "purchase":
            bought[event.user_id, event.item_id].append(event.ts)
        elif event.type == "review":
            reviews.append(event)

    assert len(reviews) == 3_000
    assert all(review.content for review in reviews)
    for review in reviews:
        assert any(DAY <= review.ts - ts <= 14 * DAY for ts in bought[review.user_id, review.item_id])


def test_what_was_cancelled_is_a_refund_and_never_a_purchase() -> None:
    quantities = {kind: [e.quantity or 0 for e in decoded() if e.type == kind] for kind in ("purchase", "refund")}

    assert min(quantities["purchase"]) > 0
    assert max(quantities["refund"]) < 0


def test_every_item_bought_is_in_the_catalogue_under_a_title() -> None:
    titles = {key.decode(): msgspec.json.decode(value) for key, value in sample().items()}

    assert {event.item_id for event in decoded() if event.item_id is not None} == titles.keys()
    assert all(entry["title"] and entry["item_id"] == key for key, entry in titles.items())


def test_a_limit_gives_the_beginning_of_the_same_log() -> None:
    beginning = list(sample().events(7_000))

    assert len(beginning) == 7_000
    assert beginning == list(sample().events())[:7_000]
    assert sample().users(7_000) == list(dict.fromkeys(event.user_id for event in decoded()[:7_000]))


def test_consents_grant_every_purpose_to_all_but_a_few_before_the_first_event() -> None:
    users, requests = set(sample().users()), list(sample().consents(0.05, seed=3))

    granted = {request.user_id for request in requests}
    assert granted < users
    assert users - granted == sample().left_out(0.05, seed=3)
    assert 0.03 < len(users - granted) / len(users) < 0.07
    assert all(request.consent == dict.fromkeys(PURPOSES, True) for request in requests)
    assert max(request.ts for request in requests) < decoded()[0].ts
    assert len({request.request_id for request in requests}) == len(requests)


def test_who_is_left_out_hangs_on_the_seed_and_not_on_the_limit() -> None:
    few, all_of_them = sample().left_out(limit=10_000), sample().left_out()

    assert few
    assert few == all_of_them & set(sample().users(10_000))
    assert sample().left_out(seed=1) != all_of_them
    assert sample().left_out(0.0) == frozenset()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.reason)
def test_a_broken_record_is_refused_for_the_reason_it_names(broken) -> None:
    with pytest.raises(Rejected) as refused:
        decode_record(broken.record.value)

    assert refused.value.reason == broken.reason


def test_mixing_adds_each_broken_record_once_and_changes_nothing_else() -> None:
    records = list(mix(sample().events(500), 500, seed=4))

    broken = [record for record in records if record in {each.record for each in BROKEN}]
    rest = [record for record in records if record not in broken]
    assert sorted(broken, key=str) == sorted((each.record for each in BROKEN), key=str)
    assert list(dict.fromkeys((key, value) for key, value, _ in rest)) == [
        (key, value) for key, value, _ in sample().events(500)
    ]
    assert len(rest) == 500 + DUPLICATES
    assert records == list(mix(sample().events(500), 500, seed=4))
    assert records != list(mix(sample().events(500), 500, seed=5))


def test_a_second_copy_comes_at_once_and_never_of_a_person_without_consent() -> None:
    withheld = set(sample().users(300)[::2])

    for seed in range(50):
        records = list(mix(sample().events(300), 300, seed=seed, withheld=withheld))
        copies = [record for before, record in pairwise(records) if before == record]
        assert len(copies) == DUPLICATES
        assert all(copy.key and copy.key.decode() not in withheld for copy in copies)


def test_broken_records_come_out_even_when_the_log_ends_early() -> None:
    records = list(mix(sample().events(3), 10_000, seed=1))

    assert [record for record in records if record.value and b"or-" in record.value]
    assert len([record for record in records if record in {each.record for each in BROKEN}]) == len(BROKEN)


def test_the_bundled_files_are_what_the_script_makes() -> None:
    if (data := os.environ.get("NUDGE_DATA")) is None:
        pytest.skip("NUDGE_DATA is not set: it names the folder with the published data sets")

    events, catalogue = build(Path(data))

    assert events.equals(pq.read_table(FOLDER / "sample.parquet"))
    assert catalogue.equals(pq.read_table(FOLDER / "catalogue.parquet"))
