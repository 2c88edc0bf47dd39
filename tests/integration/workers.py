"""Real workers as processes of their own, and what they leave behind, compared with the single-threaded reference."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from redis.asyncio import Redis

from models.lifecycle.registry import Lineup
from models.lifecycle.snapshot import Snapshot, seal
from schemas.reasons import SOURCE_HEADER
from schemas.trigger import RecommendationTrigger
from stream.app import list_topics
from stream.broker import ensure_topics, find_ends, read_all
from stream.commands.connections import open_consumer
from stream.commands.topic import find_partitions
from stream.embedded import Servers, free_port
from stream.produce import Record as Outgoing
from stream.produce import produce
from stream.settings import Settings
from stream.state.keys import name_key, tag_events, tag_source
from tests.integration.program import Program
from tests.unit.reference import Record, Reference, WordScorer

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef"
PARTITIONS = 4
DONE = ("scored", "denied", "duplicates", "dead_letters", "consents")
PINNED = 10**9
"""No learner gets so far: one that published this version itself would write over the pinned models."""


class Worker:
    """One worker process; `wrong` names what of `script` is wrong with it, `variables` win over the environment."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        name: str = "worker",
        wrong: str = "",
        variables: Mapping[str, str] | None = None,
        script: str = "tests.integration.rough_worker",
    ) -> None:
        self.port = free_port()
        self.log = folder / f"{name}.log"
        config = folder / "nudge.yaml"
        # In one step: another worker may be reading it.
        draft = folder / f"{name}.yaml"
        draft.write_text(
            yaml.safe_dump(settings.model_dump(mode="json", exclude={"models": {"snapshot_key"}, "http": True}))
        )
        draft.replace(config)
        env = {name: value for name, value in os.environ.items() if not name.startswith("NUDGE_")}
        env |= {
            "NUDGE_CONFIG": str(config),
            "NUDGE_MODELS_SNAPSHOT_KEY": KEY,
            "NUDGE_HTTP_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            **(variables or {}),
        }
        module, argument = (script, wrong) if wrong else ("stream.cli", "worker")
        self.process = Program(module, [argument], env, folder, self.log)

    async def wait_ready(self, seconds: float = 40.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-4_000:]
            if await asyncio.to_thread(self._is_ready):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not ready after {seconds} s\n" + self.log.read_text()[-4_000:])

    async def wait_up(self, seconds: float = 40.0) -> None:
        """Wait until the worker serves its pages; it has joined no group yet."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(self._answers):
            assert self.process.poll() is None, self.log.read_text()[-4_000:]
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    async def partitions(self) -> set[int]:
        """The partitions of the events topic that are the worker's now."""
        # A worker that is ready tells its metrics where it stands within half a second.
        await asyncio.sleep(0.7)
        return await asyncio.to_thread(self._read_partitions)

    def _read_partitions(self) -> set[int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            return {int(number) for number in re.findall(r'^nudge_lag\{partition="(\d+)"', page.read().decode(), re.M)}

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is told."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(25)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def errors(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]

    def causes(self) -> str:
        """What holds the worker, as readiness tells it; empty while it is ready or does not answer."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=1).close()
        except urllib.error.HTTPError as answer:
            with answer:
                return str(json.load(answer)["causes"])
        except OSError:
            pass
        return ""

    def is_live(self) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/live", timeout=5) as answer:
            return bool(answer.status == 200)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


async def wait_visible(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], seconds: float = 10.0) -> None:
    """Wait until no transaction is open in `partitions`, if that is to be: a reader's end is the broker's then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        await find_ends(consumer, partitions)
        stable = {each: consumer.last_stable_offset(each) for each in partitions}
        # Brokers without transactions may answer -1, or nothing.
        if all(found is None or found < 0 or found >= consumer.highwater(each) for each, found in stable.items()):
            return
        await asyncio.sleep(0.02)


class Job:
    """One run of the main job: its topics, its workers, and the comparison at the end."""

    def __init__(self, servers: Servers, redis: Redis, prefix: str, folder: Path, options: Settings) -> None:
        topics = {
            name: prefix + name for name in ("events", "privacy", "items", "recommendations", "scored", "examples")
        }
        self.settings = Settings(
            **options.model_dump(exclude={"kafka", "redis", "topics", "app", "sentiment"})
            | {
                "app": prefix.rstrip("."),
                "kafka": {"bootstrap": servers.kafka_bootstrap, "session_timeout": 3_000},
                "redis": {"url": servers.redis_url},
                "topics": topics | {"dead_letters": prefix + "dlq", "partitions": PARTITIONS, "retention": 0},
                "sentiment": {"enabled": False},
            }
        )
        self.redis = redis
        self.folder = folder
        self.workers: list[Worker] = []

    def start_worker(self, wrong: str = "") -> Worker:
        worker = Worker(self.settings, self.folder, f"worker-{len(self.workers)}", wrong)
        self.workers.append(worker)
        return worker

    def end(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()

    async def create_topics(self) -> None:
        await ensure_topics(self.settings.kafka.bootstrap, list_topics(self.settings))

    async def send(self, records: Sequence[Record], rate: float | None = None) -> int:
        return await produce(
            [Outgoing(record.key, record.value, list(record.headers)) for record in records],
            self.settings.kafka.bootstrap,
            self.settings.topics.events,
            rate=rate,
        )

    async def pin(self, models: Lineup) -> None:
        """Publish `models` as version `PINNED` and have the workers score with nothing else."""
        tag = tag_source("examples", 0)
        found = [(name, "outcome", scorer) for name, (scorer, _) in models.outcomes.items()]
        assert models.recommendation is not None
        found.append(("recommend", "recommend", models.recommendation[0]))
        for name, kind, scorer in found:
            snapshot = Snapshot(
                model=name,
                kind=kind,
                version=PINNED,
                schema=getattr(scorer, "schema", ""),
                created_at=0,
                positions={},
                metrics={},
                scoring=scorer.to_bytes(),
                learning=b"",
            )
            await self.redis.set(name_key("snapshot", tag, name, PINNED), seal(snapshot, KEY.encode()))
            await self.redis.hset(name_key("snapshots", tag), name, str(PINNED))
        pinned = self.settings.models.model_copy(update={"pinned": PINNED})
        self.settings = self.settings.model_copy(update={"models": pinned})

    async def counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for partition in range(PARTITIONS):
            fields = await self.redis.hgetall(name_key("counts", tag_events(partition)))
            total.update({name.decode(): int(value) for name, value in fields.items()})
        return total

    async def done(self) -> int:
        """Records that count so far."""
        counts = await self.counts()
        return sum(counts[name] for name in DONE)

    async def wait_until(self, done: int, seconds: float = 90.0) -> None:
        """Wait until `done` records count."""
        deadline = time.monotonic() + seconds
        while (found := await self.done()) < done:
            if time.monotonic() > deadline:
                logs = "\n".join(worker.log.read_text()[-3_000:] for worker in self.workers)
                raise AssertionError(f"{found} of {done} after {seconds} s\n{logs}")
            await asyncio.sleep(0.02)

    async def wait_until_cleared(self, done: int, seconds: float = 30.0) -> None:
        """Wait until no longer `done` records count, because they are counted again."""
        deadline = time.monotonic() + seconds
        while await self.done() == done:
            assert time.monotonic() < deadline, "nothing was cleared"
            await asyncio.sleep(0.01)

    async def wait_drained(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        keys = [name_key("outbox", tag_events(partition)) for partition in range(PARTITIONS)]
        while waiting := sum([await self.redis.xlen(key) for key in keys]):
            assert time.monotonic() < deadline, f"{waiting} entries still wait"
            await asyncio.sleep(0.05)

    async def read(self, topic: str) -> list[ConsumerRecord]:
        """Every record of a topic, of transactions those that are committed.

        Kafka says that a transaction is committed a moment before readers see it: that moment is waited for.
        """
        async with open_consumer(self.settings) as consumer:
            partitions = await find_partitions(self.settings, topic)
            await wait_visible(consumer, partitions)
            return [record async for record in read_all(consumer, partitions)]

    async def refer(self, models: Lineup | None, scorer: Any = None) -> list[Reference]:
        """The single-threaded reference, one a partition, over the records as they lie in the topic."""
        records = await self.read(self.settings.topics.events)
        references = []
        for partition in range(PARTITIONS):
            mine = sorted((r for r in records if r.partition == partition), key=lambda r: r.offset)
            reference = Reference(
                self.settings, partition=partition, partitions=PARTITIONS, models=models, scorer=scorer
            )
            await reference.feed(mine)
            references.append(reference)
        return references

    async def compare(self, references: Sequence[Reference]) -> None:
        """Everything that the workers left in Redis and on Kafka, byte for byte."""
        for reference in references:
            await self._compare_state(reference)
        await self._compare_output(references)

    async def _compare_state(self, reference: Reference) -> None:
        tag = tag_events(reference.partition)
        wanted = describe_state(reference)
        found = await self._hashes(tag)
        assert found.keys() == wanted.keys()
        for key, fields in wanted.items():
            assert found[key] == fields, key
        due = await self.redis.zrange(name_key("due", tag), 0, -1, withscores=True)
        open_now = {f"{w.id} {w.user_id}".encode(): float(w.deadline) for w in reference.windows().values()}
        assert dict(due) == open_now

    async def _hashes(self, tag: str) -> dict[str, dict[bytes, bytes]]:
        keys = [key.decode() async for key in self.redis.scan_iter(match=f"*:{tag}*", count=5_000)]
        skipped = {name_key(kind, tag) for kind in ("fence", "outbox", "due", "attempts", "crashes", "replayed")}  # type: ignore[arg-type]
        chosen = [key for key in keys if key not in skipped]
        async with self.redis.pipeline(transaction=False) as pipe:
            for key in chosen:
                pipe.hgetall(key)
            return dict(zip(chosen, await pipe.execute(), strict=True))

    async def _compare_output(self, references: Sequence[Reference]) -> None:
        topics = self.settings.topics
        entries = [entry for reference in references for entry in reference.entries]
        kinds = [("recommendations", topics.recommendations), ("examples", topics.examples)]
        if self.settings.send_scores:
            kinds.append(("scored", topics.scored))
        for target, topic in kinds:
            wanted = Counter(entry.value for entry in entries if entry.target == target)
            found = Counter(record.value for record in await self.read(topic))
            # At least once: a crash may send again, but never anything that was not decided.
            assert found.keys() == wanted.keys(), target
            assert max(wanted.values(), default=1) == 1
        decided = [entry for entry in entries if entry.target == "recommendations"]
        assert list_firsts(await self.read(topics.recommendations)) == list_firsts(decided)
        letters = {dict(e.headers)[SOURCE_HEADER]: (e.value, e.headers) for e in entries if e.target == "dead_letters"}
        found_letters = {
            dict(record.headers)[SOURCE_HEADER]: (record.value or b"", tuple(record.headers))
            for record in await self.read(topics.dead_letters)
        }
        assert found_letters == letters

    async def triggers(self) -> list[RecommendationTrigger]:
        records = await self.read(self.settings.topics.recommendations)
        return [msgspec.json.decode(record.value, type=RecommendationTrigger) for record in records]


def describe_state(reference: Reference) -> dict[str, dict[bytes, bytes]]:
    """The hashes that Redis must hold for one partition, by key."""
    tag = tag_events(reference.partition)
    wanted: dict[str, dict[bytes, bytes]] = {
        name_key("profile", tag, user): _pair(fields) for user, fields in reference.profiles().items()
    }
    for user, dossier in reference.people.items():
        if dossier.windows:
            windows = {name.encode(): msgspec.msgpack.encode(w) for name, w in dossier.windows.items()}
            wanted[name_key("pending", tag, user)] = windows
        consent = {name.encode(): b"%d" % allowed for name, allowed in dossier.consent.items()}
        consent |= {b"~" + name.encode(): b"%d" % ts for name, ts in dossier.decided.items()}
        consent |= {b"@%d" % partition: str(place).encode() for partition, place in dossier.ledger.items()}
        if consent:
            wanted[name_key("consent", tag, user)] = consent
    wanted[name_key("counts", tag)] = {n.encode(): b"%d" % c for n, c in reference.counts.items() if c}
    return wanted


def list_firsts(sent: Iterable[Any]) -> dict[bytes, list[bytes]]:
    """Values by key, each where it comes first: `sent` are entries or records, those of a key in order."""
    found: dict[bytes, dict[bytes, None]] = {}
    for one in sent:
        found.setdefault(one.key or b"", {})[one.value] = None
    return {key: list(values) for key, values in found.items()}


async def find_copies(job: Job, topic: str) -> list[tuple[int, int, int]]:
    """(partition, offset, copies) of the first few values that are in a topic more than once."""
    records = await job.read(topic)
    counts = Counter(record.value for record in records)
    return [(r.partition, r.offset, counts[r.value]) for r in records if counts[r.value] > 1][:10]


def _pair(flat: Sequence[bytes | str]) -> dict[bytes, bytes]:
    parts = [part.encode() if isinstance(part, str) else part for part in flat]
    return dict(zip(parts[::2], parts[1::2], strict=True))


__all__ = ["PINNED", "Job", "WordScorer", "Worker", "find_copies", "list_firsts"]


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel it until it is over: a client may lose a cancellation that comes together with an answer."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=1.0)
    await asyncio.gather(task, return_exceptions=True)
