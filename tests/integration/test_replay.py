"""Dead letters sent back, as often as one likes, apply once: after a restart too, and however long after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis

from schemas.reasons import ORIGIN_HEADER
from stream.commands.dlq import replay_letters
from stream.embedded import Servers
from stream.partition import find_partition
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.state.keys import name_key, tag_events
from tests.integration.workers import PARTITIONS, PINNED, Job
from tests.unit.factories import NOON, event
from tests.unit.reference import Record, Reference, make_lineup, open_to_all
from tests.unit.test_batch_invariance import eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
PEOPLE = [f"p{number}" for number in range(12)]

pytestmark = pytest.mark.timeout(180)


def visits(first: int, count: int) -> list[bytes]:
    """Visits of everybody, more than there are event ids in the window."""
    return [event(user).at(NOON + 1_000 * (first + n)).as_json() for n in range(count) for user in PEOPLE]


def keyed(values: Sequence[bytes]) -> list[Record]:
    return [Record(n, NOON, value, PEOPLE[n % len(PEOPLE)].encode()) for n, value in enumerate(values)]


async def test_letters_sent_back_twice_apply_once(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    # Given: events that made a stage fail, and some that lay on another person's partition
    job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event", consent={"mode": "optional"}))
    await job.create_topics()
    await job.pin(LINEUP)
    failing = [event(user).of_type("poison").at(NOON + n).as_json() for n, user in enumerate(PEOPLE)]
    astray = [event(user).of_type("search").at(NOON + n).as_json() for n, user in enumerate(PEOPLE)]
    strangers = {find_partition(user, PARTITIONS, "murmur2"): user for user in PEOPLE}
    assert len(strangers) > 1

    def misroute(user: str) -> bytes:
        mine = find_partition(user, PARTITIONS, "murmur2")
        return next(other for place, other in strangers.items() if place != mine).encode()

    try:
        worker = job.start_worker("poison")
        await worker.wait_ready()
        await job.send(keyed(failing))
        wrong = [Outgoing(misroute(user), value, []) for user, value in zip(PEOPLE, astray, strict=True)]
        await produce(wrong, job.settings.kafka.bootstrap, job.settings.topics.events)
        await job.wait_until(24)
        await job.wait_drained()
        assert (await job.counts())["dead_letters"] == 24
        assert worker.stop() == 0

        # When: a mended worker is sent them once, and again after much else and a restart
        worker = job.start_worker()
        assert await replay_letters(job.settings, reasons=()) == 24
        await job.wait_until(48)
        assert (await job.counts())["scored"] == 24
        await job.send(keyed(visits(1, 20)))
        await job.wait_until(48 + 240)
        worker.kill()
        worker = job.start_worker()
        assert await replay_letters(job.settings, reasons=()) == 24
        await job.wait_until(72 + 240)
        await job.wait_drained()

        # Then: they count once, and the rest are duplicates
        counts = await job.counts()
        assert (counts["scored"], counts["duplicates"], counts["dead_letters"]) == (24 + 240, 24, 24)
        remembered = [await redis.smembers(name_key("replayed", tag_events(n))) for n in range(PARTITIONS)]  # type: ignore[misc]
        assert sum(map(len, remembered)) == 24
        assert worker.stop() == 0
    finally:
        job.end()


def sent_back(offset: int, user: str, origin: str, ts: int = NOON) -> Record:
    value = event(user).of_type("add_to_cart").known_as(f"e-{origin}").at(ts).as_json()
    return Record(offset, NOON, value, None, [(ORIGIN_HEADER, origin.encode())])


@pytest.mark.parametrize("size", [1, 3, 100])
def test_copies_are_known_wherever_batches_begin(size: int) -> None:
    # Ten other events of that person lie between two copies: ids seen have no memory of them.
    records: list[Record] = []
    for copy in range(3):
        for origin in ("events/0/7", "events/0/1/7", "events/1/7"):
            records.append(sent_back(len(records), "ann", origin, NOON + copy))
        for n in range(10):
            value = event("ann").at(NOON + 1_000 * (10 * copy + n)).as_json()
            records.append(Record(len(records), NOON, value))
    reference = Reference(open_to_all(clock="event", score_on=())).run(records, size)
    assert (reference.counts["scored"], reference.counts["duplicates"]) == (33, 6)


def test_what_is_denied_is_not_remembered_as_applied() -> None:
    records = [sent_back(0, "ann", "events/0/7"), sent_back(1, "ann", "events/0/7")]
    reference = Reference(open_to_all(consent={"mode": "required"})).run(records)
    assert (reference.counts["denied"], reference.replayed) == (2, set())


@pytest.mark.parametrize("place", ["events/0", "events/0/x", "/0/1", "events/0/1/2/3", "ev ents/0/1", ""])
def test_an_origin_that_is_no_place_is_refused(place: str) -> None:
    reference = Reference(open_to_all()).run([sent_back(0, "ann", place)])
    assert reference.counts["dead_letters:wrong_type"] == 1
