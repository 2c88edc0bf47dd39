"""A score session on a real Redis: what is offered twice counts once, and a refused entry is parked once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError
from redis.asyncio import Redis

from models.lifecycle.registry import Champions
from models.outcomes.features import SCHEMA
from schemas.privacy import KIND_HEADER
from stream.agents.score import ScoreSession, Scoring
from stream.delivery.entries import read_entry
from stream.delivery.errors import Refused
from stream.delivery.fence import acquire_fence, place_fence
from stream.delivery.outbox import Drain
from stream.delivery.producer import Outgoing, Producer
from stream.metrics import Metrics
from stream.settings import BadSettings, Settings
from stream.stages.batch import Entry, Position
from stream.stages.pipeline import Stages
from stream.state.client import connect_redis
from stream.state.forms import UnknownState
from stream.state.keys import name_key, tag_events
from stream.state.partition import check_eviction
from stream.vitals import Vitals
from tests.unit.factories import NOON, event
from tests.unit.reference import Inline, Record, open_to_all

TAG = tag_events(0)


class Refuser(Producer):
    """Fails as often as told before it takes what it is given; a broker that is away for a while."""

    def __init__(self, settings: Settings, failures: int = 0) -> None:
        super().__init__(settings, idempotent=False)
        self.failures = failures
        self.sent: list[Outgoing] = []

    async def send(self, records: list[Outgoing]) -> list[int]:
        if self.failures:
            self.failures -= 1
            raise KafkaConnectionError("away")
        self.sent += records
        return []


@pytest.fixture
async def client(redis: Redis, redis_url: str) -> AsyncIterator[Redis]:
    """The product's own client, of the emptied Redis."""
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        yield client


async def open_session(client: Redis, **overrides: Any) -> ScoreSession:
    settings = open_to_all(**{"clock": "event", "score_on": ()} | overrides)
    scoring = Scoring(
        settings=settings,
        redis=client,
        producer=Refuser(settings),
        stages=Stages(settings, 1, None, Inline()),
        champions=Champions(SCHEMA),
        metrics=Metrics(),
        vitals=Vitals(),
        newest=deque(maxlen=12),
    )
    return scoring.open(0, await acquire_fence(client, TAG, 0))


def views(count: int) -> list[Record]:
    return [Record(n, NOON, event("ann").of_type("page_view").at(NOON + n).as_json()) for n in range(count)]


async def counted(client: Redis) -> dict[str, int]:
    fields: Any = await client.hgetall(name_key("counts", TAG))
    return {name.decode(): int(value) for name, value in fields.items()}


async def test_a_batch_offered_again_after_its_first_half_counted_counts_once(client: Redis) -> None:
    session = await open_session(client)
    await session.handle(views(40)[:20])
    await session.handle(views(40))
    await session.handle(views(40))
    assert (await counted(client))["scored"] == 40


async def test_a_failure_behind_the_commit_blames_no_event(client: Redis) -> None:
    session = await open_session(client)

    def fail(*_: object) -> None:
        raise ArithmeticError("in what comes after the commit")

    session.people.accept = fail  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError):
        await session.handle(views(3))
    assert await counted(client) == {"scored": 3, "scored:view": 3}


async def test_a_session_of_before_a_take_over_writes_nothing(client: Redis) -> None:
    session = await open_session(client)
    await acquire_fence(client, TAG, 0)
    with pytest.raises(Refused):
        await session.handle(views(3))
    assert await counted(client) == {}


async def test_all_that_is_due_in_a_quiet_partition_is_closed_at_once(client: Redis) -> None:
    session = await open_session(client, clock="log", idle_after=0, batch={"closings_per_event": 2})
    began = int(time.time() * 1000) - 3_600_000
    carts = [event(f"u{n}").of_type("add_to_cart").at(began + n).as_json() for n in range(50)]
    await session.handle([Record(n, began + n, value) for n, value in enumerate(carts)])
    await session.idle()
    counts = await counted(client)
    assert counts["triggers:abandoned-intent"] == 50
    assert session.fence.next == 50


@pytest.mark.parametrize("hours", [-30, 30])
async def test_a_worker_whose_clock_is_off_closes_and_sends_as_any_other(
    client: Redis, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now = int(time.time() * 1000)
    monkeypatch.setattr(time, "time", lambda: now / 1000 + hours * 3_600)
    session = await open_session(client, clock="log", idle_after=0)
    await session.open()
    # given a cart of 36 minutes ago, whose window of half an hour is over, and one of now
    carts = [(0, "ann", now - 36 * 60_000), (1, "bob", now)]
    await session.handle([Record(n, at, event(who).of_type("add_to_cart").at(at).as_json()) for n, who, at in carts])

    # when the partition is quiet
    await session.idle()
    await session.close()

    # then the one is closed, its trigger is sent, and the other waits
    assert (await counted(client))["triggers:abandoned-intent"] == 1
    assert await client.zcard(name_key("due", TAG)) > 0
    producer = session.scoring.producer
    assert isinstance(producer, Refuser)
    assert [record.key for record in producer.sent if record.topic == "marketing.recommendations.v1"] == [b"ann"]


@pytest.mark.parametrize("known", [True, False], ids=["known person", "nobody"])
async def test_a_deadline_whose_window_is_gone_stops_no_partition(client: Redis, known: bool) -> None:
    # given a deadline in Redis that no window stands behind, before another whose window is there
    session = await open_session(client)
    cart = event("ann").of_type("add_to_cart").at(NOON)
    await session.handle([Record(0, NOON, cart.as_json())])
    due = name_key("due", TAG)
    orphan = f"{'0' * 16} {'ann' if known else 'nobody'}"
    await client.zadd(due, {orphan: NOON - 1})
    kept = await client.zcard(due)
    session.people.clear()

    # when the watermark passes both
    day = 86_400_000
    later = [
        Record(n, NOON + day + n, event("bob").of_type("page_view").at(NOON + day + n).as_json()) for n in range(1, 4)
    ]
    await session.handle(later)

    # then events count, the other window has closed with its trigger, and the orphan is gone
    counts = await counted(client)
    assert counts["scored"] == 4
    assert counts["triggers:abandoned-intent"] == 1
    assert await client.zscore(due, orphan) is None
    assert await client.zcard(due) < kept - 1
    assert session.fence.next == 4


async def test_an_entry_too_large_is_parked_once_however_often_the_rest_is_sent_again(client: Redis) -> None:
    settings = Settings(outbox={"max_entry_bytes": 1_000})
    fence = await acquire_fence(client, TAG, 0)
    producer, metrics = Refuser(settings, failures=3), Metrics()
    drain = Drain(settings, client, producer, TAG, fence, metrics, Vitals())
    headers = (("nudge-reason", b"not_json"), ("original-x", None))
    large = Entry(Position(7, 1), "dead_letters", b"k", b"x" * 2_000, headers, NOON)
    small = Entry(Position(8, 1), "dead_letters", b"k", b"y", (), NOON)
    await drain.open()
    drain.add([large, small])
    for _ in range(1_000):
        if drain.waiting:
            await asyncio.sleep(0.01)
    await drain.close()
    assert [record.value for record in producer.sent] == [b"y"]
    assert metrics.outbox_parked.total() == 1
    [(identity, fields)] = await client.xrange(name_key("parked", TAG))  # type: ignore[misc]
    assert identity == b"7-1"
    assert fields[b"value"] == large.value  # type: ignore[index]
    assert b"not_json" in fields[b"headers"]  # type: ignore[index]


async def test_an_entry_of_a_log_made_anew_is_parked_beside_those_of_the_old(client: Redis) -> None:
    settings = Settings(outbox={"max_entry_bytes": 1_000})
    for offset, generation in ((7, 0), (3, 1)):
        fence = msgspec.structs.replace(await acquire_fence(client, TAG, 0), generation=generation)
        drain = Drain(settings, client, Refuser(settings), TAG, fence, Metrics(), Vitals())
        await drain._deliver([Entry(Position(offset, 1), "dead_letters", b"k", b"x" * 2_000, (), NOON)])
    parked: Any = await client.xrange(name_key("parked", TAG))
    assert [identity for identity, _ in parked] == [b"7-1", b"1000000000003-1"]


async def test_an_entry_below_one_that_was_parked_before_is_parked_too(client: Redis) -> None:
    # Given: an entry parked, and a fence that an operator then moved back
    settings, metrics = Settings(outbox={"max_entry_bytes": 1_000}), Metrics()
    fence = await acquire_fence(client, TAG, 0)
    drain = Drain(settings, client, Refuser(settings), TAG, fence, metrics, Vitals())
    await drain._deliver([Entry(Position(70, 1), "examples", b"k", b"a" * 2_000, (), NOON)])
    await place_fence(client, TAG, fence, 40, clear=False)

    # When: other entries are too large now, one in a lower place and one in the same
    fence = await acquire_fence(client, TAG, 0)
    drain = Drain(settings, client, Refuser(settings), TAG, fence, metrics, Vitals())
    others = [Entry(Position(place, 1), "examples", b"k", b"b" * 2_000, (), NOON) for place in (45, 70)]
    await drain._deliver(others)

    # Then: all lie there with their places, the first known by its id, and were counted
    parked: Any = await client.xrange(name_key("parked", TAG))
    found = [read_entry(identity, fields) for identity, fields in parked]
    assert [(each.position, each.value[:1]) for each in found] == [
        (Position(70, 1), b"a"), (Position(45, 1), b"b"), (Position(70, 1), b"b"),
    ]  # fmt: skip
    assert metrics.outbox_parked.total() == 3


async def test_a_redis_that_may_evict_stops_the_start(own_redis: Any) -> None:
    async with Redis.from_url(f"redis://127.0.0.1:{own_redis.port}") as other:
        await check_eviction(other)
        await other.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(BadSettings, match="allkeys-lru"):
            await check_eviction(other)


async def test_a_withdrawn_profile_is_gone_from_redis_and_may_begin_anew(client: Redis) -> None:
    # Given: a person of whom Redis holds a profile and windows
    session = await open_session(client)
    cart = event("ann").of_type("add_to_cart")
    await session.handle([Record(0, NOON, cart.at(NOON).as_json())])
    assert await client.exists(*[name_key(kind, TAG, "ann") for kind in ("profile", "pending")]) == 2

    # When: consent is withdrawn
    request = {"request_id": "r", "user_id": "ann", "ts": NOON, "consent": {"personalisation": False}}
    value, headers = msgspec.json.encode(request), [(KIND_HEADER, b"privacy")]
    await session.handle([Record(1, NOON, value, None, headers)])

    # Then: all that is left is what the person decided
    left = {key async for key in client.scan_iter(match="*ann*")}
    assert left == {name_key("consent", TAG, "ann").encode()}
    assert await client.zcard(name_key("due", TAG)) == 0

    # And: a later consent begins a new profile, from the cache as from Redis
    request = request | {"consent": {"personalisation": True}}
    await session.handle([Record(2, NOON, msgspec.json.encode(request), None, headers)])
    await session.handle([Record(3, NOON, cart.at(NOON + 1).as_json())])
    assert await client.hget(name_key("profile", TAG, "ann"), "version") == b"1"  # type: ignore[misc]


async def test_a_window_that_can_not_be_read_stops_the_partition_and_blames_no_event(client: Redis) -> None:
    session = await open_session(client)
    await session.handle([Record(0, NOON, event("bob").of_type("add_to_cart").at(NOON).as_json())])
    session.people.clear()
    await client.hset(name_key("pending", TAG, "bob"), "f" * 16, b"not a window")  # type: ignore[misc]
    with pytest.raises(UnknownState):
        await session.handle([Record(1, NOON, event(user).at(NOON).as_json()) for user in ("ann", "bob")])
    assert (await counted(client)).get("dead_letters") is None
    assert session.fence.next == 1


async def test_an_entry_is_not_trimmed_before_a_full_redis_could_park_it(own_redis: Any) -> None:
    settings = Settings(redis={"url": f"redis://127.0.0.1:{own_redis.port}"}, outbox={"max_entry_bytes": 1_000})
    async with connect_redis(settings) as redis:
        # Given: an entry too large to send, and a Redis without room
        fence = await acquire_fence(redis, TAG, 0)
        drain = Drain(settings, redis, Refuser(settings), TAG, fence, Metrics(), Vitals())
        entry: Any = {"target": "dead_letters", "key": b"k", "value": b"x" * 2_000, "headers": b"", "at": NOON}
        await redis.xadd(name_key("outbox", TAG), entry, id="7-1")
        await redis.execute_command("CONFIG", "SET", "maxmemory", 1)
        await drain.open()
        await asyncio.sleep(0.5)
        assert await redis.xlen(name_key("outbox", TAG)) == 1

        # When: there is room again
        await redis.execute_command("CONFIG", "SET", "maxmemory", 0)
        for _ in range(500):
            if await redis.xlen(name_key("parked", TAG)):
                break
            await asyncio.sleep(0.01)

        # Then: it lies with the parked
        await asyncio.sleep(0.1)
        await drain.close()
        assert await redis.xlen(name_key("outbox", TAG)) == 0
        assert await redis.xlen(name_key("parked", TAG)) == 1


async def test_a_drain_ends_although_nobody_waits_for_its_end_any_more(client: Redis) -> None:
    """Would have caught: a lane that is stopped while its session closes, and a drain that sends on behind it."""
    settings, vitals = open_to_all(), Vitals()
    refuser = Refuser(settings, failures=10**9)
    drain = Drain(settings, client, refuser, TAG, await acquire_fence(client, TAG, 0), Metrics(), vitals)
    await drain.open()
    drain.add([Entry(Position(7, 1), "dead_letters", b"k", b"v", (), NOON)])
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(drain.close())
    await asyncio.sleep(0.1)
    closing.cancel()
    await asyncio.wait([closing])
    assert drain.task is not None
    assert drain.task.done()
    assert vitals.pauses() == {}
