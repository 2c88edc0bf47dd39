"""The commands against a real broker and a real Redis, seeded as a worker would leave them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis import Redis
from typer.testing import CliRunner, Result

from schemas.trigger import RecommendationTrigger, RecommendedItem
from stream.broker import probe
from stream.broker.reading import PATIENCE
from stream.cli import app
from stream.delivery.entries import REFUSED, park_entry
from stream.delivery.fence import acquire_fence
from stream.delivery.outbox import Drain
from stream.delivery.producer import Producer
from stream.metrics import Metrics
from stream.partition import Partitioner, find_partition
from stream.settings import Settings
from stream.stages.batch import Entry, Position, Target
from stream.state.client import connect_redis
from stream.state.keys import tag_events, tag_source
from stream.vitals import Vitals

DAY = 86_400_000
PARTITIONS = 3
ROOT = Path(__file__).parents[2]

Headers = Sequence[tuple[str, bytes]]


class Sent(NamedTuple):
    """A record to write, or one that was read."""

    partition: int
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()


class Place:
    """A broker and a Redis for one test, with topics of its own."""

    def __init__(self, bootstrap: str, redis_url: str, prefix: str) -> None:
        self.bootstrap, self.redis_url = bootstrap, redis_url
        self.redis = Redis.from_url(redis_url, decode_responses=True)
        self.topics = {
            name: f"{prefix}{name}"
            for name in ("events", "privacy", "items", "recommendations", "examples", "dead_letters")
        }

    def variables(self) -> dict[str, str]:
        named = {f"NUDGE_TOPICS_{name.upper()}": topic for name, topic in self.topics.items()}
        return {"NUDGE_KAFKA_BOOTSTRAP": self.bootstrap, "NUDGE_REDIS_URL": self.redis_url, **named}

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=self.variables())

    def create(self, name: str, **configs: str) -> str:
        options = {key.replace("_", "."): value for key, value in configs.items()}
        asyncio.run(_create(self.bootstrap, self.topics[name], options))
        return self.topics[name]

    def create_all(self) -> None:
        """Topics as a worker makes them."""
        self.create("events", retention_ms=str(400 * DAY), message_timestamp_type="LogAppendTime")
        self.create("privacy", retention_ms="-1")
        self.create("examples", retention_ms=str(60 * DAY))
        for name in ("items", "recommendations", "dead_letters"):
            self.create(name, retention_ms=str(30 * DAY))

    def send(self, name: str, *records: Sent) -> None:
        asyncio.run(_send(self.bootstrap, self.topics[name], records))

    def read(self, name: str, count: int) -> list[Sent]:
        return asyncio.run(_read(self.bootstrap, self.topics[name], count))


async def _create(bootstrap: str, topic: str, configs: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs=configs)])
        for _ in range(100):
            if topic in await admin.list_topics():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{topic} did not appear")
    finally:
        await admin.close()


async def _send(bootstrap: str, topic: str, records: Sequence[Sent]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for each in records:
            await producer.send_and_wait(
                topic, each.value, key=each.key, partition=each.partition, headers=list(each.headers)
            )
    finally:
        await producer.stop()


async def _read(bootstrap: str, topic: str, count: int) -> list[Sent]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        found: list[Sent] = []
        deadline = time.monotonic() + 15
        quiet = 0
        # A second without anything more, so that one record too many is seen as well.
        while (len(found) < count or quiet < 5) and time.monotonic() < deadline:
            some = [r for records in (await consumer.getmany(timeout_ms=200)).values() for r in records]
            quiet = 0 if some else quiet + 1
            found += [Sent(r.partition, r.value, r.key, tuple(r.headers)) for r in some]
        return found
    finally:
        await consumer.stop()


@pytest.fixture
def place(
    servers: Any, redis: Any, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Place]:
    for name in [name for name in os.environ if name.startswith("NUDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    found = Place(servers.kafka_bootstrap, servers.redis_url, topic_prefix)
    yield found
    found.redis.close()


def person(place: Place, user_id: str, partitioner: Partitioner = "murmur2") -> int:
    """Write state of one person as a worker would; the partition."""
    partition = find_partition(user_id, PARTITIONS, partitioner)
    place.redis.hset("nudge", mapping={"partitions": PARTITIONS, "partitioner": partitioner})
    fields = {
        "last_seen": "1700000000000", "orders": "3", "revenue": "12.5", "conversion_probability": "0.25",
        "last_items": '["mug","lamp"]', "version": "7", "_0": b"secret-state\xff\xfe",
    }  # fmt: skip
    place.redis.hset(f"profile:{{p{partition}}}:{user_id}", mapping=fields)
    place.redis.hset(f"pending:{{p{partition}}}:{user_id}", mapping={"w1": b"x", "w2": b"y"})
    consent = {"personalisation": "1", "marketing": "0", "@4": "17"}
    place.redis.hset(f"consent:{{p{partition}}}:{user_id}", mapping=consent)
    return partition


def trigger(number: int) -> bytes:
    return msgspec.json.encode(
        RecommendationTrigger(
            trigger_id=f"t{number}", user_id=f"user-{number}", rule="abandoned-intent", event_id="e",
            decided_at=1_700_000_000_000, expires_at=1_700_000_060_000, reason="left a mug in the cart",
            channel="email",
            items=(RecommendedItem(item_id="mug", score=0.5, reason="seen last", title="Blue \x1b[31mmug"),),
        )
    )  # fmt: skip


def letter(value: bytes | None, source: str, reason: str, at: int, *original: tuple[str, bytes], **more: Any) -> Sent:
    headers = [
        ("nudge-reason", reason.encode()), ("nudge-error", b"expected `}`"), ("nudge-source", source.encode()),
        ("nudge-time", str(at).encode()), *((f"original-{name}", content) for name, content in original),
    ]  # fmt: skip
    return Sent(more.get("partition", 0), value, more.get("key"), headers)


# profile


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_a_profile_is_found_without_its_partition(place: Place, partitioner: Partitioner) -> None:
    users = [f"user-{number}" for number in range(9)]
    partitions = {user: person(place, user, partitioner) for user in users}
    assert len(set(partitions.values())) > 1
    for user, partition in partitions.items():
        found = json.loads(place.run("profile", user, "--json").output)
        assert (found["user_id"], found["partition"], found["open_windows"]) == (user, partition, 2)
        assert found["consent"] == {"personalisation": True, "marketing": False}
        assert found["profile"] == {
            "last_seen": 1_700_000_000_000, "orders": 3, "revenue": 12.5, "conversion_probability": 0.25,
            "last_items": ["mug", "lamp"], "version": 7,
        }  # fmt: skip


def test_private_fields_are_not_shown(place: Place) -> None:
    person(place, "ann")
    for arguments in (["profile", "ann"], ["profile", "ann", "--json"]):
        result = place.run(*arguments)
        assert result.exit_code == 0
        assert "secret-state" not in result.output
    shown = place.run("profile", "ann").output
    assert "2023-11-14 22:13:20.000Z" in shown
    assert "marketing withdrawn, personalisation granted" in shown


def test_an_unknown_user_is_told_so(place: Place) -> None:
    person(place, "ann")
    result = place.run("profile", "bob")
    assert result.exit_code == 1
    assert "no profile" in result.stderr
    assert result.stdout == ""


def test_a_redis_without_state_is_told_from_an_unknown_user(place: Place) -> None:
    result = place.run("profile", "ann")
    assert result.exit_code == 1
    assert "no state" in result.stderr


# status


def test_status_shows_where_each_partition_stands(place: Place) -> None:
    place.create("events")
    place.send("events", *(Sent(0, b"{}") for _ in range(10)), *(Sent(1, b"{}") for _ in range(4)))
    place.redis.hset("nudge", mapping={"partitions": PARTITIONS, "partitioner": "murmur2"})
    fence = {
        "owner": "0123456789abcdef",
        "epoch": 3,
        "next": 7,
        "clock": 1_700_000_000_000,
        "watermark": 1_699_999_700_000,
    }
    place.redis.hset("fence:{p0}", mapping=fence)
    place.redis.hset("counts:{p0}", mapping={"scored": 6, "denied": 1})
    place.redis.xadd("outbox:{p0}", {"kind": "trigger"}, id="5-1")
    place.redis.xadd("parked:{p0}", {"kind": "trigger"}, id="2-1")
    fresh = {
        "owner": "fedcba9876543210",
        "epoch": 1,
        "next": 4,
        "clock": 0,
        "watermark": 0,
        "last_hash": "",
        "emitted": "-1-0",
    }
    place.redis.hset("fence:{p1}", mapping=fresh)

    result = place.run("status", "--json")
    assert result.exit_code == 0
    rows = [row for row in json.loads(result.output)["partitions"] if row["source"] == "events"]
    assert [row["partition"] for row in rows] == [0, 1, 2]
    assert rows[0] == {
        "source": "events", "partition": 0, "owner": "0123456789abcdef", "epoch": 3, "next": 7, "end": 10, "lag": 3,
        "clock": 1_700_000_000_000, "watermark": 1_699_999_700_000, "outbox": 1, "parked": 1,
        "counts": {"denied": 1, "scored": 6},
    }  # fmt: skip
    assert (rows[1]["end"], rows[1]["lag"], rows[1]["clock"]) == (4, 0, None)
    assert (rows[2]["owner"], rows[2]["end"], rows[2]["lag"]) == (None, 0, None)

    shown = place.run("status").output
    assert "01234567 " in shown
    assert "0123456789" not in shown
    assert "denied=1 scored=6" in shown
    assert "events behind: 3; examples behind: 0; waiting in outboxes: 1" in shown


def test_status_without_topic_and_state_says_what_to_do(place: Place) -> None:
    result = place.run("status")
    assert result.exit_code == 1
    assert "start a worker" in result.stderr


# tail


def test_tail_prints_triggers_from_the_start_in_plain_words(place: Place) -> None:
    place.create("recommendations")
    place.send("recommendations", Sent(0, trigger(1)), Sent(0, b"not a trigger"), Sent(0, trigger(2)))
    result = place.run("tail", "--from-start", "--max", "3")
    assert result.exit_code == 0
    first, second, third = result.output.splitlines()
    assert (
        "user-1: left a mug in the cart (rule abandoned-intent); show Blue \\x1b[31mmug (seen last) by email" in first
    )
    assert f"{place.topics['recommendations']}/0/1: not a trigger" in second
    assert "user-2" in third
    assert "\x1b" not in result.output


def test_tail_as_json_gives_the_bodies(place: Place) -> None:
    place.create("recommendations")
    place.send("recommendations", *(Sent(0, trigger(number)) for number in range(3)))
    result = place.run("tail", "--from-start", "--json", "--max", "3")
    assert [line.encode() for line in result.output.splitlines()] == [trigger(number) for number in range(3)]


def test_tail_from_now_leaves_out_what_was_there_and_ends_cleanly(place: Place) -> None:
    place.create("recommendations")
    place.send("recommendations", *(Sent(partition, trigger(1)) for partition in range(PARTITIONS)))
    command = [sys.executable, "-u", "-c", "from stream.cli import main; main()", "tail", "--json"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **place.variables()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            number = 100
            # Sent again and again until the first arrives: nobody tells when the command has begun to listen.
            os.set_blocking(process.stdout.fileno(), False)
            lines: list[str] = []
            deadline = time.monotonic() + 30
            while not lines and time.monotonic() < deadline:
                number += 1
                place.send("recommendations", Sent(number % PARTITIONS, trigger(number)))
                lines += filter(None, [process.stdout.readline()])
            process.send_signal(signal.SIGINT)
            code = process.wait(10)
            os.set_blocking(process.stdout.fileno(), True)
            lines += process.stdout.readlines()
            errors = process.stderr.read()
        finally:
            process.kill()
    assert code == 0
    assert errors == ""
    users = [json.loads(line)["user_id"] for line in lines]
    assert users
    assert "user-1" not in users


# dead letters


def seed_letters(place: Place) -> str:
    events = place.create("events")
    place.create("dead_letters")
    place.send(
        "dead_letters",
        letter(b'{"event_id": \xff', f"{events}/2/10", "json", 3_000, ("trace", b"abc"), ("empty", b""), key=b"ann"),
        letter(b"[1]", f"{events}/1/4", "shape", 1_000, partition=1),
        letter(b"\x00\x01\x1b[31m", f"{events}/2/11", "json", 2_000, partition=2),
        Sent(2, b"by hand"),
    )
    return events


def test_dead_letters_are_listed_by_time_and_reason(place: Place) -> None:
    events = seed_letters(place)
    rows = [json.loads(line) for line in place.run("dlq", "list", "--json", "--reason", "json").output.splitlines()]
    assert [(row["at"], row["source"], row["time"], row["size"]) for row in rows] == [
        ("2/0", f"{events}/2/11", 2_000, 7),
        ("0/0", f"{events}/2/10", 3_000, 14),
    ]
    assert rows[0]["error"] == "expected `}`"
    shown = place.run("dlq", "list", "--limit", "2").output
    assert "2 of 4 dead letters: json 2, shape 1, unknown 1" in shown
    assert "1970-01-01 00:00:03.000Z" in shown
    assert "1970-01-01 00:00:01.000Z" not in shown


def test_a_dead_letter_is_shown_with_its_bytes(place: Place) -> None:
    seed_letters(place)
    found = json.loads(place.run("dlq", "show", "2/0", "--json").output)
    assert base64.b64decode(found["value"]) == b"\x00\x01\x1b[31m"
    shown = place.run("dlq", "show", "2/0").output
    assert "\\x00\\x01\\x1b[31m" in shown
    assert "\x1b" not in shown
    assert "abc" in place.run("dlq", "show", "0/0").output
    missing = place.run("dlq", "show", "0/99")
    assert missing.exit_code == 1
    assert "0/99" in missing.stderr


def test_replay_sends_the_original_back(place: Place) -> None:
    events = seed_letters(place)
    dry = place.run("dlq", "replay", "--reason", "json", "--dry-run")
    assert "2 dead letters would be sent back" in dry.output
    unknown = place.run("dlq", "replay", "--reason", "jsno")
    assert "no dead letter has the reason jsno; there are json" in unknown.output
    assert "0 dead letters sent back" in unknown.output
    result = place.run("dlq", "replay", "--reason", "json")
    assert result.exit_code == 0
    assert "2 dead letters sent back" in result.output
    dead = place.topics["dead_letters"]
    keyed, other = sorted(place.read("events", 2), key=lambda sent: sent.key is None)
    assert keyed.value == b'{"event_id": \xff'
    assert (keyed.key, keyed.partition) == (b"ann", find_partition("ann", PARTITIONS, "murmur2"))
    assert keyed.headers == (
        ("trace", b"abc"),
        ("empty", b""),
        ("nudge-origin", f"{events}/2/10".encode()),
        ("nudge-replay", f"{dead}/0/0".encode()),
    )
    origin = ("nudge-origin", f"{events}/2/11".encode())
    assert other == Sent(2, b"\x00\x01\x1b[31m", None, (origin, ("nudge-replay", f"{dead}/2/0".encode())))


def test_a_misrouted_record_goes_to_the_partition_of_its_person(place: Place) -> None:
    events = place.create("events")
    place.create("dead_letters")
    users = {user: find_partition(user, PARTITIONS, "murmur2") for user in ("ann", "bob", "eve", "kim", "anon:7")}
    assert len(set(users.values())) > 1

    def misroute(user: str, key: bytes | None, source: int) -> Sent:
        event = {"event_id": f"e-{user}", "user_id": user, "type": "view", "ts": 1_700_000_000_000}
        return letter(json.dumps(event).encode(), f"{events}/{source}/1", "misrouted", 1, key=key)

    # Each lay on a partition that is not its person's, under the key of somebody else or none.
    other = {user: (partition + 1) % PARTITIONS for user, partition in users.items()}
    strangers = {p: next(u for n in range(99) if find_partition(u := f"x{n}", PARTITIONS, "murmur2") == p)
                 for p in range(PARTITIONS)}  # fmt: skip
    place.send("dead_letters", *(misroute(user, strangers[other[user]].encode(), other[user]) for user in users))
    place.send("dead_letters", misroute("ann", None, other["ann"]))
    place.send("dead_letters", letter(b"{", f"{events}/0/1", "not_json", 1))

    assert "6 dead letters sent back" in place.run("dlq", "replay", "--reason", "misrouted").output

    sent = place.read("events", 6)
    assert len(sent) == 6
    for each in sent:
        assert each.partition == users[json.loads(each.value or b"")["user_id"]]


def test_a_record_that_failed_again_is_sent_once(place: Place) -> None:
    events, dead = place.create("events"), place.create("dead_letters")
    first = letter(b"broken", f"{events}/0/5", "json", 1_000)
    origin = ("nudge-origin", f"{events}/0/5".encode())
    again = letter(b"broken", f"{events}/0/9", "json", 2_000, origin, ("nudge-replay", f"{dead}/0/0".encode()))
    place.send("dead_letters", first, again)
    assert "1 dead letters sent back" in place.run("dlq", "replay", "--all").output
    (sent,) = place.read("events", 1)
    assert sent.headers == (origin, ("nudge-replay", f"{dead}/0/1".encode()))


def test_nothing_is_sent_when_a_source_topic_is_gone(place: Place) -> None:
    place.create("events")
    place.create("dead_letters")
    events = place.topics["events"]
    place.send("dead_letters", letter(b"a", f"{events}/0/1", "json", 1), letter(b"b", f"{events}.old/0/1", "json", 2))
    result = place.run("dlq", "replay", "--all")
    assert result.exit_code == 1
    assert f"{events}.old" in result.stderr
    assert place.read("events", 0) == []


# parked entries


def park(place: Place, partition: int, *entries: Entry) -> None:
    """Let a worker's drain park them, as it does what is too large."""
    topics = {"recommendations": place.topics["recommendations"], "examples": place.topics["examples"]}
    settings = Settings(
        kafka={"bootstrap": place.bootstrap}, redis={"url": place.redis_url}, topics=topics,
        outbox={"max_entry_bytes": 1_000, "max_trigger_age": 0},
    )  # fmt: skip
    asyncio.run(_park(settings, partition, entries))
    place.redis.hset("nudge", mapping={"partitions": PARTITIONS, "partitioner": "murmur2"})


async def _park(settings: Settings, partition: int, entries: Sequence[Entry]) -> None:
    tag = tag_events(partition)
    producer = Producer(settings, idempotent=False)
    async with connect_redis(settings) as redis:
        drain = Drain(settings, redis, producer, tag, await acquire_fence(redis, tag, 0), Metrics(), Vitals())
        await drain.open()
        drain.add(entries)
        for _ in range(500):
            if drain.waiting:
                await asyncio.sleep(0.02)
        await drain.close()
        await producer.stop()


def large(offset: int, target: Target, key: bytes, at: int, size: int = 2_000) -> Entry:
    return Entry(Position(offset, 1), target, key, b"x" * size, (("model", b"conversion"), ("empty", None)), at)


def test_parked_entries_are_listed_without_what_they_hold(place: Place) -> None:
    place.create_all()
    park(place, 0, large(7, "recommendations", b"ann", 2_000))
    park(place, 2, large(3, "examples", b"bob", 1_000, size=1_500), large(9, "examples", b"bob", 3_000))
    topics = place.topics
    rows = [json.loads(line) for line in place.run("dlq", "list", "--parked", "--json").output.splitlines()]
    error = "larger than outbox.max_entry_bytes, 1000"
    assert rows == [
        {"at": "2/3-1", "topic": topics["examples"], "time": 1_000, "error": error, "size": 1_500},
        {"at": "0/7-1", "topic": topics["recommendations"], "time": 2_000, "error": error, "size": 2_000},
        {"at": "2/9-1", "topic": topics["examples"], "time": 3_000, "error": error, "size": 2_000},
    ]
    shown = place.run("dlq", "list", "--parked", "--limit", "2").output
    assert f"2 of 3 parked entries: {topics['examples']} 2, {topics['recommendations']} 1" in shown
    assert "1970-01-01 00:00:03.000Z" in shown
    assert "2/3-1" not in shown
    for text in (shown, json.dumps(rows)):
        assert not any(secret in text for secret in ("ann", "bob", "xxx"))


def test_parked_entries_are_sent_on_and_forgotten(place: Place) -> None:
    # The topic takes now what a client does not send unless told to.
    size = 1_500_000
    place.create("examples", max_message_bytes=str(2 * size))
    place.create("recommendations")
    users = [f"user-{number}" for number in range(4)]
    park(place, 0, *(large(number, "examples", user.encode(), 0, size) for number, user in enumerate(users)))
    dry = place.run("dlq", "replay", "--parked", "--dry-run")
    assert "4 parked entries would be sent on" in dry.output
    assert "1 parked entries sent on" in place.run("dlq", "replay", "--parked", "--limit", "1").output
    assert place.redis.xlen("parked:{p0}") == 3
    result = place.run("dlq", "replay", "--parked")
    assert result.exit_code == 0, result.output
    assert "3 parked entries sent on" in result.output
    assert place.redis.xlen("parked:{p0}") == 0
    sent = place.read("examples", 4)
    assert sorted((each.key, each.partition) for each in sent) == [
        (user.encode(), find_partition(user, PARTITIONS, "murmur2")) for user in users
    ]
    assert {each.value for each in sent} == {b"x" * size}
    assert {tuple(each.headers) for each in sent} == {(("model", b"conversion"), ("empty", None))}
    assert "0 of 0 parked entries" in place.run("dlq", "list", "--parked").output


def test_a_parked_dead_letter_of_the_ledger_is_listed_and_sent_on(place: Place) -> None:
    place.create_all()
    park(place, 1, large(7, "examples", b"ann", 1_000))
    asyncio.run(_park_letter(place, 2, large(5, "dead_letters", b"bob", 2_000)))
    rows = [json.loads(line) for line in place.run("dlq", "list", "--parked", "--json").output.splitlines()]
    assert [(row["at"], row["topic"]) for row in rows] == [
        ("1/7-1", place.topics["examples"]), ("privacy/2/5-1", place.topics["dead_letters"]),
    ]  # fmt: skip
    assert "2 parked entries sent on" in place.run("dlq", "replay", "--parked").output
    assert [each.key for each in place.read("dead_letters", 1)] == [b"bob"]
    assert place.redis.xlen("parked:{privacy2}") == 0


async def _park_letter(place: Place, partition: int, entry: Entry) -> None:
    async with connect_redis(Settings(redis={"url": place.redis_url})) as redis:
        await park_entry(redis, tag_source("privacy", partition), 0, entry, REFUSED)


def test_an_entry_parked_below_another_is_listed_in_its_place_and_forgotten_once_sent(place: Place) -> None:
    place.create_all()
    park(place, 0, large(7, "examples", b"ann", 1_000), large(3, "examples", b"bob", 2_000))
    rows = [json.loads(line) for line in place.run("dlq", "list", "--parked", "--json").output.splitlines()]
    assert [row["at"] for row in rows] == ["0/7-1", "0/3-1"]
    assert "2 parked entries sent on" in place.run("dlq", "replay", "--parked").output
    assert sorted(each.key or b"" for each in place.read("examples", 2)) == [b"ann", b"bob"]
    assert place.redis.xlen("parked:{p0}") == 0


def test_a_parked_trigger_that_may_no_longer_be_sent_stays(place: Place) -> None:
    place.create_all()
    now = int(time.time() * 1_000)
    allowed = {"personalisation": "1", "marketing": "1"}
    place.redis.hset("consent:{p0}:ann", mapping=allowed)
    place.redis.hset("consent:{p0}:bob", mapping={**allowed, "marketing": "0"})
    place.redis.hset("consent:{p0}:eve", mapping=allowed)
    park(
        place, 0, large(1, "recommendations", b"ann", now), large(2, "recommendations", b"bob", now),
        large(3, "recommendations", b"eve", now - DAY), large(4, "recommendations", b"kim", now),
    )  # fmt: skip
    shown = place.run("dlq", "replay", "--parked").output
    assert "1 parked entries sent on" in shown
    assert "2 triggers are of people without consent" in shown
    assert "1 triggers are older than outbox.max_trigger_age" in shown
    assert [each.key for each in place.read("recommendations", 1)] == [b"ann"]
    kept = [json.loads(line)["at"] for line in place.run("dlq", "list", "--parked", "--json").output.splitlines()]
    assert sorted(kept) == ["0/2-1", "0/3-1", "0/4-1"]


def test_what_the_broker_refuses_again_stays_parked_and_holds_up_nothing(place: Place, broker_kind: str) -> None:
    if broker_kind == "embedded":
        pytest.skip("the embedded broker takes records of any size")
    place.create("examples", max_message_bytes="100000")
    place.create("recommendations")
    park(place, 0, large(1, "examples", b"a", 0, 200_000), large(2, "examples", b"a", 0, 2_000))
    result = place.run("dlq", "replay", "--parked")
    assert result.exit_code == 1
    assert "1 parked entries sent on" in result.output
    assert "1 entries were refused again" in result.stderr
    assert [len(each.value or b"") for each in place.read("examples", 1)] == [2_000]
    assert place.redis.xlen("parked:{p0}") == 1


def test_parked_entries_have_no_reasons(place: Place) -> None:
    assert place.run("dlq", "list", "--parked", "--reason", "json").exit_code == 2
    assert place.run("dlq", "replay", "--parked", "--all").exit_code == 2


def test_an_empty_dead_letter_topic_ends_by_itself(place: Place) -> None:
    place.create("dead_letters")
    assert "0 of 0 dead letters" in place.run("dlq", "list").output
    assert "0 dead letters sent back" in place.run("dlq", "replay", "--all").output


def test_a_missing_topic_is_named_and_not_created(place: Place) -> None:
    for command in (["dlq", "list"], ["tail", "--max", "1"]):
        result = place.run(*command)
        assert result.exit_code == 1
        assert "not on the broker" in result.stderr
    assert place.run("dlq", "list").exit_code == 1


def test_reading_ends_where_a_transaction_ends_or_is_open(place: Place) -> None:
    if not asyncio.run(probe(place.bootstrap)).transactions:
        pytest.skip("the broker has no transactions")
    place.create("dead_letters")
    asyncio.run(_send_in_transactions(place.bootstrap, place.topics["dead_letters"]))
    began = time.monotonic()
    result = place.run("dlq", "list", "--json")
    assert [json.loads(line)["at"] for line in result.output.splitlines()] == ["0/0"]
    assert time.monotonic() - began < PATIENCE


async def _send_in_transactions(bootstrap: str, topic: str) -> None:
    """One record committed, one rolled back, one left open by a producer that goes away."""
    for end in ("commit", "abort", "leave"):
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{topic}-{end}")
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, end.encode(), partition=0)
            if end == "commit":
                await producer.commit_transaction()
            elif end == "abort":
                await producer.abort_transaction()
        finally:
            await producer.stop()


# doctor


def states(result: Result) -> dict[str, str]:
    return {check["check"]: check["state"] for check in json.loads(result.output)["checks"]}


@pytest.fixture
def healthy(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("NUDGE_MODELS_SNAPSHOT_KEY", "k" * 64)
    monkeypatch.setenv("NUDGE_SENTIMENT_ENABLED", "false")
    place.create_all()
    place.redis.config_set("maxmemory-policy", "noeviction")
    place.redis.hset("nudge", mapping={"partitions": PARTITIONS, "partitioner": "murmur2"})
    return place


def test_a_healthy_place_passes(healthy: Place) -> None:
    result = healthy.run("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = states(result)
    assert "fail" not in found.values()
    assert {
        found[name] for name in ("broker", "redis", "partitions", "partitioner", "redis eviction", "snapshot key")
    } == {"ok"}
    assert found[f"topic {healthy.topics['events']}"] == "ok"
    assert found["examples retention"] == found["privacy retention"] == "ok"
    assert found["events time stamps"] == ("ok" if asyncio.run(probe(healthy.bootstrap)).log_append_time else "warn")
    table = healthy.run("doctor")
    assert table.exit_code == 0
    assert "redis eviction" in table.output


def test_an_eviction_policy_fails(healthy: Place) -> None:
    healthy.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        result = healthy.run("doctor", "--json")
    finally:
        healthy.redis.config_set("maxmemory-policy", "noeviction")
    assert result.exit_code == 1
    assert states(result)["redis eviction"] == "fail"


def test_doctor_tells_when_redis_takes_snapshots(healthy: Place) -> None:
    """What it would have caught: an option asked for in a form that no server knows, and taken as kept to itself."""
    healthy.redis.config_set("save", "3600 1")
    try:
        result = healthy.run("doctor", "--json")
    finally:
        healthy.redis.config_set("save", "")
    found = {check["check"]: check["found"] for check in json.loads(result.output)["checks"]}
    assert found["redis persistence"] == "snapshots only (3600 1)"


def test_another_partition_count_fails(healthy: Place) -> None:
    healthy.redis.hset("nudge", "partitions", PARTITIONS + 1)
    result = healthy.run("doctor", "--json")
    assert result.exit_code == 1
    assert states(result)["partitions"] == "fail"


def test_short_retention_fails(place: Place) -> None:
    place.create("examples", retention_ms=str(36 * DAY))
    place.create("privacy", retention_ms=str(300 * DAY))
    place.create("events", retention_ms=str(DAY))
    found = states(place.run("doctor", "--json"))
    assert found["examples retention"] == found["privacy retention"] == "fail"
    assert found["events retention"] == found["events time stamps"] == "warn"


def test_one_server_away_hides_nothing_of_the_other(healthy: Place) -> None:
    healthy.bootstrap, kept = "127.0.0.1:1", healthy.bootstrap
    found = states(healthy.run("doctor", "--json"))
    assert (found["broker"], found["redis"]) == ("fail", "ok")
    healthy.bootstrap, healthy.redis_url = kept, "redis://127.0.0.1:1"
    result = healthy.run("doctor", "--json")
    found = states(result)
    assert (found["broker"], found["redis"]) == ("ok", "fail")
    assert result.exit_code == 1


def test_missing_model_files_fail_with_advice(healthy: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUDGE_SENTIMENT_ENABLED", "true")
    monkeypatch.setenv("NUDGE_SENTIMENT_FOLDER", str(tmp_path / "nothing"))
    checks = {each["check"]: each for each in json.loads(healthy.run("doctor", "--json").output)["checks"]}
    assert checks["sentiment model"]["state"] == "fail"
    assert "sentiment.folder" in checks["sentiment model"]["advice"]
    monkeypatch.delenv("NUDGE_SENTIMENT_FOLDER")
    assert states(healthy.run("doctor", "--json"))["sentiment model"] == "ok"
    monkeypatch.setenv("NUDGE_SENTIMENT_STUDENT", str(tmp_path / "nothing"))
    assert states(healthy.run("doctor", "--json"))["sentiment model"] == "fail"


def test_doctor_creates_nothing(place: Place) -> None:
    place.run("doctor")
    found = states(place.run("doctor", "--json"))
    assert {found[f"topic {topic}"] for topic in place.topics.values()} == {"warn"}


# produce


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_produce_sends_lines_to_the_partition_of_their_user(
    place: Place, tmp_path: Path, partitioner: Partitioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUDGE_PARTITIONER", partitioner)
    place.create("events")
    lines = [
        json.dumps({"event_id": f"e{n}", "user_id": f"user-{n}", "type": "view", "ts": 1_700_000_000_000})
        for n in range(20)
    ]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "broken"]) + "\n")
    result = place.run("produce", str(tmp_path / "events.jsonl"))
    assert result.exit_code == 1
    assert "line 21" in result.stderr
    assert "20 of 21 lines sent, 1 refused" in result.stdout
    sent = place.read("events", 20)
    assert sorted(each.value for each in sent if each.value) == sorted(line.encode() for line in lines)
    for each in sent:
        user_id = json.loads(each.value or b"")["user_id"]
        assert each.partition == find_partition(user_id, PARTITIONS, partitioner)


def test_produce_sends_consents_to_the_ledger_and_says_which_lines_are_none(place: Place, tmp_path: Path) -> None:
    place.create("privacy")
    request = {"request_id": "r1", "user_id": "ann", "ts": 1_700_000_000_000, "consent": {"marketing": True}}
    event = {"event_id": "e1", "user_id": "ann", "type": "view", "ts": 1_700_000_000_000}
    (tmp_path / "consents.jsonl").write_text("\n".join(map(json.dumps, (request, event))))
    result = place.run("produce", "--consents", str(tmp_path / "consents.jsonl"))
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    [sent] = place.read("privacy", 1)
    assert (sent.key, json.loads(sent.value or b"")) == (b"ann", request)
