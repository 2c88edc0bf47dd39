"""One schedule: a plan carried out on real workers, a broker and a Redis, and what the verifier says of the end.

The log is sent in sections, one around each fault, so that there is work under way whenever one strikes, however fast
the machine is. A fault waits until its share of the section counts, and the next section is sent when it is over.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.lifecycle.registry import Lineup
from stream.broker import BrokerError
from stream.broker.coordinator import await_coordinators
from stream.embedded import Server, Servers
from stream.partition import find_partitions
from stream.settings import AbandonedRule, ScoreRule, Settings
from stream.state.keys import name_key, tag_events, tag_source
from tests.faults.plan import PARTITIONS, Family, Fault, Plan, compose, compose_plain
from tests.faults.verifier import Verdict, ask_oracle, verify, verify_commuting, verify_live
from tests.integration.workers import KEY, PINNED, Job, Worker
from tests.unit.reference import Record, Reference, make_lineup
from tests.unit.test_batch_invariance import MINUTE, eager

T = TypeVar("T")

FAMILY_OPTIONS: Final[dict[Family, dict[str, Any]]] = {
    "pinned": {"models": {"snapshot_interval": 200}},
    # Consent holds from its place in the log, and a profile that is about to expire may or may not: both depend on
    # order.
    "shuffled": {"models": {"snapshot_interval": 200}, "consent": {"mode": "optional"}, "profile_ttl": "3650d"},
    "live": {
        "models": {"snapshot_interval": 200, "reload_interval": 50},
        "rules": (
            ScoreRule(name="likely", at_least=0.02, cooldown=0),
            AbandonedRule(name="abandoned", after=3 * MINUTE, cooldown=10 * MINUTE),
        ),
    },
}
LINEUP: Final = make_lineup("conversion", "click", version=PINNED)
SESSION: Final = 2_000
LATEST_FAULT: Final = 34.0
"""Seconds after which no further fault begins, so that a schedule ends in time on a busy machine too."""
PATIENCE: Final = 40.0
PART: Final = 300
TOPICS: Final = ("recommendations", "examples", "dead_letters")

EVERYWHERE: Final = tuple(f"group-{number}" for number in range(32))
"""Names of groups that between them lie on all partitions in which the broker keeps its groups."""

COPY = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do " \
    "all[#all + 1] = {key, redis.call('DUMP', key), redis.call('PTTL', key)} end return all"  # fmt: skip


class Stuck(Exception):
    """The workers did not get where they should within the time they have."""


class Schedule:
    """Carries out one plan. `kills` counts the SIGKILLs after which work had gone on before the next came."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        redis_server: Server,
        bootstrap: str,
        kafka: Server | None = None,
        mutant: str = "none",
    ) -> None:
        self.plan = plan
        self.mutant = mutant
        self.redis_server = redis_server
        self.kafka = kafka
        url = f"redis://127.0.0.1:{redis_server.port}/0"
        self.redis = Redis.from_url(url)
        options = eager(
            clock="event",
            batch={"closings_per_event": plan.closings, "max_records": plan.batch, "cached_people": plan.cache},
            outbox={"max_entries": plan.outbox},
            output_guarantee="exactly_once" if plan.exactly_once else "at_least_once",
            **FAMILY_OPTIONS[plan.family],
        )
        prefix = f"faults-{plan.seed}-{uuid.uuid4().hex[:6]}."
        self.job = Job(Servers(bootstrap, url, None), self.redis, prefix, folder, options)
        self._hurry()
        self.lives: list[Worker] = []
        self.kills: list[int] = []
        self.skipped = 0
        self.notes: list[str] = []
        self.began = time.monotonic()

    def _hurry(self) -> None:
        kafka = self.job.settings.kafka.model_copy(
            update={"session_timeout": SESSION, "heartbeat": 500, "rebalance_timeout": 8_000}
        )
        self.job.settings = self.job.settings.model_copy(update={"kafka": kafka})

    async def run(self) -> Verdict:
        """The whole schedule; what it started is ended, whatever happens."""
        try:
            await self.redis.flushall()
            await self.job.create_topics()
            if self.plan.family != "live":
                await self.job.pin(LINEUP)
            self.lives = [self.start(slot) for slot in range(self.plan.workers)]
            try:
                await self._disturb()
                return await self._judge()
            except Stuck as stuck:
                return Verdict([str(stuck), *self._tails()], lost=1, broken=True)
        finally:
            self.job.end()
            await self._forget_topics()
            await self.redis.aclose()

    def start(self, slot: int) -> Worker:
        """Start a worker in `slot`, in the place of whoever was there."""
        name = f"worker-{slot}-{len(self.job.workers)}"
        skew = self.plan.skews[slot] if self.plan.skews else 0
        variables = {
            "FAULTS_ARMED": str(self.armed(slot)),
            "FAULTS_SKEW": str(skew),
            "TMPDIR": str(self.job.folder),
        }
        worker = Worker(self.job.settings, self.job.folder, name, self.mutant, variables, "tests.faults.worker")
        self.job.workers.append(worker)
        return worker

    def armed(self, slot: int) -> Path:
        """The file that tells a worker where to strike itself."""
        return self.job.folder / f"armed-{slot}.json"

    async def _disturb(self) -> None:
        await self.settle(30)
        self.began = time.monotonic()
        log = compose(self.plan)
        share = len(log) // (len(self.plan.faults) + 1)
        for number, fault in enumerate(self.plan.faults):
            section = log[number * share : (number + 1) * share]
            if not self._in_time():
                self.skipped += 1
                await self.send(section)
                continue
            if fault.settled:
                await self.settle(12)
            if fault.kind == "rollback":
                await self._roll_back(section, int(fault.share * share))
                continue
            mark = await self.done() + int(fault.share * share)
            sending = asyncio.create_task(self.send(section))
            await self.until(partial(self._counts, mark), "progress")
            await self._strike(fault)
            await sending
        if self.plan.family == "live":
            # What models decide is to be computed again: the last section finds some that have learned from the others.
            await self._catch_up()
            await self._wait_learned(await self.job.read(self.job.settings.topics.examples))
        await self.send(log[len(self.plan.faults) * share :])

    async def _roll_back(self, section: Sequence[Record], at: int) -> None:
        """Redis holds again what it held before `at` records were applied, and the next come at once."""
        copy = await self.copy()
        mark = await self.done() + at
        await self.send(section[:at])
        await self.until(partial(self._counts, mark), "progress")
        await self.restore(copy)
        await self.send(section[at:])

    def _in_time(self) -> bool:
        return time.monotonic() - self.began < LATEST_FAULT

    async def settle(self, seconds: float) -> None:
        """Wait until every worker says that it is ready; one that does not for long is not waited for."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._bring_up(slot) for slot in range(len(self.lives))))
        except TimeoutError:
            self.notes.append("not settled")

    async def _bring_up(self, slot: int) -> None:
        """Wait until a worker is ready; one that met a server that was away as it began is started again."""
        while True:
            worker = self.lives[slot]
            try:
                await worker.wait_ready()
                return
            except AssertionError:
                if worker.process.poll() is None:
                    raise
                self.notes.append("began anew")
                self.lives[slot] = self.start(slot)

    async def send(self, records: Sequence[Record]) -> None:
        """Write records to the events topic, in parts; a part that a broker's end cut short is written again, whole."""
        for at in range(0, len(records), PART):
            while True:
                try:
                    await self.job.send(records[at : at + PART], rate=self.plan.rate)
                    break
                except KafkaError:
                    await asyncio.sleep(0.3)

    async def _strike(self, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                await self._kill(fault.worker)
            case "point":
                await self._kill_at(fault.worker, fault.point, fault.count)
            case "assigning":
                self.arm(fault.worker, "acquired", 1, signal.SIGKILL)
                await self._kill(fault.worker)
                await self._await_death(fault.worker)
            case "zombie" | "duel":
                await self._stop_and_continue(fault)
            case "rebalance":
                await self._join_and_leave()
            case "leave":
                try:
                    await asyncio.to_thread(self.lives[fault.worker].stop)
                except subprocess.TimeoutExpired:
                    # It was killed then: what it left must be right all the same.
                    self.notes.append("SIGTERM took more than its grace")
                self.lives[fault.worker] = self.start(fault.worker)
            case "redis":
                await self._restart(self.redis_server, 0.3)
            case "broker":
                assert self.kafka is not None
                await self._restart(self.kafka, 0.3)
                if not await self._is_led():
                    self.notes.append("the broker led no group, and was started once more")
                    await self._restart(self.kafka, 0.3)

    async def _kill(self, slot: int) -> None:
        self.lives[slot].kill()
        await self._count_kill()
        self.lives[slot] = self.start(slot)

    async def _kill_at(self, slot: int, point: str, count: int) -> None:
        self.arm(slot, point, count, signal.SIGKILL)
        await self._await_death(slot)

    async def _await_death(self, slot: int) -> None:
        """Wait until the worker has killed itself; one that does not come to the point is killed where it is."""
        with suppress(Stuck):
            await self.until(lambda: _truth(self.lives[slot].process.poll() is not None), "the point", seconds=8)
        if self.lives[slot].process.poll() is None:
            self.notes.append("a point was not reached")
            self.armed(slot).unlink(missing_ok=True)
        await self._kill(slot)

    async def _count_kill(self) -> None:
        self.kills.append(sum((await self.fences()).values()))

    async def _stop_and_continue(self, fault: Fault) -> None:
        """The zombie: asleep with a batch decided while its partitions become others'."""
        slot = fault.worker
        self.arm(slot, "decided", 1, signal.SIGSTOP)
        try:
            await self.until(lambda: _truth(self.struck(slot).exists()), "the zombie's batch", seconds=8)
        except Stuck:
            self.notes.append("no zombie: it had nothing to decide")
            self.armed(slot).unlink(missing_ok=True)
            return
        partition = json.loads(self.struck(slot).read_text())["partition"]
        rivals = [other for other in range(self.plan.workers) if other != slot]
        owner = await self.owner(partition)
        if fault.kind == "duel":
            for rival in rivals:
                self.arm(rival, "acquired", 1, signal.SIGSTOP, partition)
        with suppress(Stuck):
            await self.until(lambda: self._is_another(partition, owner), "another owner", seconds=10)
        await asyncio.sleep(0.1)
        os.kill(self.lives[slot].process.pid, signal.SIGCONT)
        await asyncio.sleep(0.4)
        for rival in rivals:
            self.armed(rival).unlink(missing_ok=True)
            os.kill(self.lives[rival].process.pid, signal.SIGCONT)

    async def _is_another(self, partition: int, owner: str) -> bool:
        return await self.owner(partition) != owner

    async def _join_and_leave(self) -> None:
        """A further member of the group, that takes partitions and does nothing with them."""
        settings = self.job.settings
        member = AIOKafkaConsumer(
            settings.topics.events,
            bootstrap_servers=settings.kafka.bootstrap,
            group_id=f"{settings.app}-events",
            enable_auto_commit=False,
            session_timeout_ms=SESSION,
            heartbeat_interval_ms=500,
            rebalance_timeout_ms=8_000,
        )
        await member.start()
        try:
            await self.until(lambda: _truth(bool(member.assignment())), "the member's share", seconds=10)
        except Stuck:
            self.notes.append("the further member got nothing")
        finally:
            await member.stop()

    async def _restart(self, server: Server, away: float) -> None:
        server.kill()
        await asyncio.sleep(away)
        await asyncio.to_thread(server.start)

    async def _is_led(self) -> bool:
        """Whether the broker came back whole.

        Now and then Kafka 4.3 gives up loading a partition of its groups that comes online meanwhile ("Stopped loading
        records from __consumer_offsets-1"), and answers its groups that another leads them until it is started anew.
        """
        try:
            return await await_coordinators(self.job.settings.kafka.bootstrap, EVERYWHERE, timeout_s=8.0)
        except BrokerError:
            return False

    def arm(self, slot: int, point: str, count: int, number: int, partition: int | None = None) -> None:
        """Have the worker send itself signal `number` when it is at `point` for the `count`-th time."""
        self.struck(slot).unlink(missing_ok=True)
        order = {"point": point, "count": count, "signal": int(number), "partition": partition}
        fresh = self.armed(slot).with_suffix(".new")
        fresh.write_text(json.dumps(order))
        fresh.rename(self.armed(slot))

    def struck(self, slot: int) -> Path:
        """The file in which a worker says what it was doing."""
        return self.armed(slot).with_suffix(".struck")

    async def copy(self) -> Any:
        """All that Redis holds now."""
        return await self.ask(lambda: self.redis.eval(COPY, 0))  # type: ignore[arg-type,return-value]

    async def restore(self, copy: Any) -> None:
        """Have Redis hold that again, at once and under live connections, as a replica does that lagged."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, value, ttl in copy:
                pipe.restore(key, max(ttl, 0), value)
            await pipe.execute()

    async def fences(self) -> dict[int, int]:
        """`next` of every partition."""
        found = await self.ask(
            lambda: asyncio.gather(
                *(self.redis.hget(name_key("fence", tag_events(p)), "next") for p in range(PARTITIONS))
            )  # type: ignore[arg-type]
        )
        return {partition: int(place or 0) for partition, place in enumerate(found)}

    async def owner(self, partition: int) -> str:
        """Token of the fence's owner."""
        found = await self.ask(lambda: self.redis.hget(name_key("fence", tag_events(partition)), "owner"))  # type: ignore[arg-type,return-value]
        return found.decode() if found else ""

    async def done(self) -> int:
        """Records that lie behind the fences."""
        return sum((await self.fences()).values())

    async def _counts(self, number: int) -> bool:
        return await self.done() >= number

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis, again while it is away."""
        while True:
            try:
                return await question()
            except (RedisError, OSError):
                await asyncio.sleep(0.05)

    async def until(self, true: Callable[[], Awaitable[bool]], what: str, seconds: float = PATIENCE) -> None:
        """Wait until something is so. Raises `Stuck`."""
        deadline = time.monotonic() + seconds
        while not await true():
            if time.monotonic() > deadline:
                raise Stuck(f"no {what} after {seconds:g} s, fences at {await self.fences()}")
            await asyncio.sleep(0.01)

    async def _catch_up(self) -> Sequence[Any]:
        """Wait until all that is in the log now is done and sent; return its records."""
        records = await self.job.read(self.job.settings.topics.events)
        ends = {p: 1 + max((r.offset for r in records if r.partition == p), default=-1) for p in range(PARTITIONS)}
        await self.settle(12)
        await self.until(lambda: self._reached(ends), "end of the log")
        await self.until(self._drained, "empty outbox")
        return records

    async def _judge(self) -> Verdict:
        records = await self._catch_up()
        output = {name: await self.job.read(getattr(self.job.settings.topics, name)) for name in TOPICS}
        await self._wait_learned(output["examples"])
        if self.plan.family == "live":
            references = await refer(self.job.settings, records, Lineup())
            verdict = await verify_live(self.job, references, output, KEY.encode())
        else:
            references = await refer(self.job.settings, records, LINEUP)
            verdict = await verify(self.redis, references, output, KEY.encode())
        if self.plan.exactly_once:
            verdict.expect("entries sent more than once", verdict.copies, 0)
        if self.plan.family == "shuffled":
            in_order = await refer(self.job.settings, spread(compose_plain(self.plan)), LINEUP)
            await verify_commuting(verdict, self.redis, in_order)
        else:
            await ask_oracle(verdict, self.redis, self.job.settings, records, output)
        return verdict

    async def _reached(self, ends: dict[int, int]) -> bool:
        return await self.fences() == ends

    async def _drained(self) -> bool:
        keys = [name_key("outbox", tag_events(partition)) for partition in range(PARTITIONS)]
        return not sum(await self.ask(lambda: asyncio.gather(*(self.redis.xlen(key) for key in keys))))

    async def _wait_learned(self, examples: Sequence[Any]) -> None:
        """Wait until the snapshots hold these examples, or the first to come; the verifier says so if they never do."""
        last = examples[-1].offset if examples else 0
        with suppress(Stuck):
            await self.until(lambda: self._learned(last), "last snapshot")

    async def _learned(self, last: int) -> bool:
        # With the snapshots moves the fence. Versions alone do not tell: those that are pinned are higher than any.
        found = await self.ask(lambda: self.redis.hget(name_key("fence", tag_source("examples", 0)), "next"))  # type: ignore[arg-type,return-value]
        return int(found or 0) > last

    def count_kills(self) -> int:
        """Kills after which the fences had moved by the next."""
        return len(set(self.kills))

    def troubles(self) -> int:
        """Tracebacks in the workers' logs."""
        return sum(worker.log.read_text(errors="replace").count("Traceback") for worker in self.job.workers)

    def _tails(self) -> list[str]:
        return [worker.log.read_text(errors="replace")[-1_500:] for worker in self.lives]

    async def _forget_topics(self) -> None:
        topics = self.job.settings.topics
        names = [topics.events, topics.privacy, topics.items, topics.recommendations, topics.examples]
        admin = AIOKafkaAdminClient(bootstrap_servers=self.job.settings.kafka.bootstrap)
        with suppress(KafkaError, OSError):
            await admin.start()
            await admin.delete_topics([*names, topics.dead_letters])
        with suppress(KafkaError, OSError):
            await admin.close()


def spread(records: Sequence[Record]) -> list[Placed]:
    """Records that were never sent, on the partitions on which they would lie."""
    places = find_partitions([(record.key or b"").decode() for record in records], PARTITIONS, "murmur2")
    return [
        Placed(offset, record.timestamp, record.value, record.key, record.headers, partition)
        for offset, (record, partition) in enumerate(zip(records, places, strict=True))
    ]


@dataclass(slots=True)
class Placed(Record):
    """A record with its partition."""

    partition: int = 0


async def refer(settings: Settings, records: Sequence[Any], models: Lineup) -> list[Reference]:
    """The single-threaded reference, one a partition, over the records as they lie in the topic."""
    references = []
    for partition in range(PARTITIONS):
        mine = sorted((r for r in records if r.partition == partition), key=lambda r: r.offset)
        reference = Reference(settings, partition=partition, partitions=PARTITIONS, models=models)
        await reference.feed(mine)
        references.append(reference)
    return references


async def _truth(found: bool) -> bool:
    return found
