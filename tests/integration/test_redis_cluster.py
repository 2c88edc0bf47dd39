"""The main job on a Redis Cluster of three nodes: all keys of a partition are on one of them, and may move to another.

It runs on the embedded broker alone, which plays no part in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis as SyncRedis
from redis.crc import key_slot
from redis.exceptions import RedisError

from models.person import Person
from stream.commands.dlq import list_letters
from stream.commands.doctor import show_health
from stream.commands.profile import show_profile
from stream.commands.status import show_status
from stream.delivery.commit import commit_batch
from stream.delivery.fence import Fence, acquire_fence, read_fence
from stream.embedded import Guard, Server, Servers, free_port, start_redis
from stream.partition import find_partition
from stream.settings import BadSettings, Settings
from stream.stages.batch import Batch, Clock, Dossier, Entry, Position
from stream.state.client import check_cluster, connect_redis
from stream.state.keys import Tag, name_key, tag_events
from stream.state.partition import check_eviction
from tests.integration.workers import DONE, PARTITIONS, PINNED, Job
from tests.unit.factories import NOON
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

LINEUP = make_lineup("conversion", "click", version=PINNED)
RECORDS = 4_000
SLOTS = 16_384
NODES = 3

pytestmark = pytest.mark.timeout(120)


class Node:
    """One server of the cluster, and a client of it alone."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.bus = free_port()
        options = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus))
        server._recipe = replace(server._recipe, command=[*server._recipe.command, *options])
        server.restart()
        self.client = SyncRedis(port=server.port)
        self.id = self.ask("MYID").decode()

    def ask(self, *words: object) -> Any:
        return self.client.execute_command(b"CLUSTER", *words)

    def is_well(self) -> bool:
        said = self.ask("INFO").decode().split()
        return {"cluster_state:ok", f"cluster_known_nodes:{NODES}"} <= set(said)


@pytest.fixture(scope="module")
def nodes(guard: Guard) -> Iterator[list[Node]]:
    """Three nodes that share the slots: `{p0}` and `{p1}` are on the last, `{p2}` and `{p3}` on one each."""
    with ExitStack() as stack:
        servers = [start_redis(guard.make_folder(), appendonly=True, guard=guard) for _ in range(NODES)]
        for server in servers:
            stack.callback(server.kill)
        nodes = [Node(server) for server in servers]
        for number, node in enumerate(nodes):
            stack.callback(node.client.close)
            node.ask("ADDSLOTSRANGE", SLOTS * number // NODES, SLOTS * (number + 1) // NODES - 1)
            node.ask("SET-CONFIG-EPOCH", number + 1)
            nodes[0].ask("MEET", "127.0.0.1", node.server.port, node.bus)
        deadline = time.monotonic() + 20
        while not all(node.is_well() for node in nodes):
            assert time.monotonic() < deadline, "the nodes do not come together"
            time.sleep(0.05)
        yield nodes


@pytest.fixture
async def job(
    nodes: list[Node], brokers: Callable[[str], str], topic_prefix: str, tmp_path: Path
) -> AsyncIterator[Job]:
    servers = Servers(brokers("embedded"), f"redis://127.0.0.1:{nodes[0].server.port}/0", None)
    settings = Settings(redis={"url": servers.redis_url, "cluster": True, "timeout": 400})
    async with connect_redis(settings) as redis:
        job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
        job.settings = job.settings.model_copy(update={"redis": settings.redis})
        await job.create_topics()
        await job.pin(LINEUP)
        yield job
        job.end()


async def move(tag: Tag, source: Node, target: Node, *, fence_first: bool) -> int:
    """Move a partition few keys at a time, as `redis-cli --cluster reshard` does; returns how many there were.

    All the while some of its keys are on one node and some on the other; the fence among the first or the last.
    """
    slot = key_slot(tag.strip("{}").encode())
    fence = name_key("fence", tag).encode()
    target.ask("SETSLOT", slot, "IMPORTING", source.id)
    source.ask("SETSLOT", slot, "MIGRATING", target.id)
    moved = 0
    while keys := source.ask("GETKEYSINSLOT", slot, SLOTS):
        some = sorted(keys, key=lambda key: (key == fence) != fence_first)[:20]
        source.client.execute_command("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5_000, "KEYS", *some)
        moved += len(some)
        await asyncio.sleep(0.05)
    for node in (target, source):
        node.ask("SETSLOT", slot, "NODE", target.id)
    return moved


async def wait_until_done(client: SyncRedis, partition: int, due: int) -> None:
    """Wait until `due` records of a partition count, as the node says that its keys are on."""
    deadline = time.monotonic() + 20
    while sum(int(count or 0) for count in client.hmget(name_key("counts", tag_events(partition)), DONE)) < due:
        assert time.monotonic() < deadline, f"partition {partition} stands still while another's node hangs"
        await asyncio.sleep(0.05)


async def test_the_main_job_on_three_nodes_equals_the_reference(
    job: Job, nodes: list[Node], capsys: pytest.CaptureFixture[str]
) -> None:
    """What it would have caught: a script that touches two slots, or that ends half-way because some of its keys have
    moved; a client that asks one node only for what is on three; a node's outage that ends the work on the others."""
    log = compose_log(RECORDS, people=RECORDS)
    part = RECORDS // 4
    worker = job.start_worker()
    await worker.wait_ready()
    assert [key_slot(b"p%d" % number) * NODES // SLOTS for number in range(PARTITIONS)] == [2, 2, 1, 0]

    # When: partitions move to other nodes under load
    await job.send(log[:part])
    await job.wait_until(part)
    sending = asyncio.create_task(job.send(log[part : 3 * part], rate=700))
    assert await move(tag_events(3), nodes[0], nodes[1], fence_first=False) > 100
    assert await move(tag_events(2), nodes[1], nodes[0], fence_first=True) > 100
    assert not sending.done()
    await sending
    await job.wait_until(3 * part)

    # And: a node hangs for longer than is waited for it
    os.killpg(nodes[2].server.pid, signal.SIGSTOP)
    await job.send(log[3 * part :])
    for number, node in ((2, nodes[0]), (3, nodes[1])):
        due = sum(find_partition(record.key.decode(), PARTITIONS, "murmur2") == number for record in log)
        await wait_until_done(node.client, number, due)
    for _ in range(100):
        if "redis" in await asyncio.to_thread(worker.causes):
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("readiness does not tell that a node is away")
    assert await asyncio.to_thread(worker.is_live)
    os.killpg(nodes[2].server.pid, signal.SIGCONT)
    await job.wait_until(RECORDS)

    # Then: it is as if nothing had been
    await job.wait_drained()
    await worker.wait_ready()
    await job.compare(await job.refer(LINEUP))
    assert worker.errors() == [], worker.log.read_text()

    # And: where a fence is lost, all that its partition holds is found, deleted and made again, each event once
    nodes[0].client.delete(name_key("fence", tag_events(2)))
    await job.wait_until_cleared(RECORDS)
    await job.wait_until(RECORDS)
    assert await job.done() == RECORDS
    assert worker.stop() == 0

    # And: the commands find what lies on three nodes
    capsys.readouterr()
    await show_status(job.settings, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert sum(each["counts"].get(name, 0) for each in found["partitions"] for name in DONE) == RECORDS
    assert {each["owner"] is not None for each in found["partitions"] if each["source"] == "events"} == {True}
    for partition in range(PARTITIONS):
        prefix = name_key("profile", tag_events(partition), "")
        key = await anext(job.redis.scan_iter(match=prefix + "*"))
        user = key.decode().removeprefix(prefix)
        await show_profile(job.settings, user, as_json=True)
        assert json.loads(capsys.readouterr().out)["user_id"] == user
    await show_health(job.settings, as_json=True)
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [each["state"] for each in checks if each["check"].startswith("redis")].count("fail") == 0
    assert sum(each["check"] == "redis memory" for each in checks) == NODES
    await list_letters(job.settings, reasons=(), limit=5)
    assert "crash" not in capsys.readouterr().out


async def test_a_commit_while_its_keys_are_moved_is_whole_or_not_at_all(nodes: list[Node]) -> None:
    """What it would have caught: entries in the outbox of a batch whose profiles could not be written."""
    tag, source, target = tag_events(7), nodes[0], nodes[1]
    settings = Settings(redis={"url": f"redis://127.0.0.1:{source.server.port}/0", "cluster": True})
    async with connect_redis(settings) as redis:
        # Given: an entry for the outbox, which is there, and a person who is not
        fence = await acquire_fence(redis, tag, 0)
        await commit_batch(redis, tag, compose_batch("u1", 0), fence, to := step(fence, 1), 60_000)
        # When: the slot is about to move
        slot = key_slot(b"p7")
        target.ask("SETSLOT", slot, "IMPORTING", source.id)
        source.ask("SETSLOT", slot, "MIGRATING", target.id)
        with pytest.raises(RedisError):
            await commit_batch(redis, tag, compose_batch("u2", 1), to, step(to, 2), 60_000)
        # Then: nothing is written, and after that all of it
        assert await redis.xlen(name_key("outbox", tag)) == 1
        for node in (source, target):
            node.ask("SETSLOT", slot, "STABLE")
        await commit_batch(redis, tag, compose_batch("u2", 1), to, step(to, 2), 60_000)
        assert await redis.xlen(name_key("outbox", tag)) == 2
        assert await redis.exists(name_key("profile", tag, "u2"))


def compose_batch(user: str, offset: int) -> Batch:
    batch = Batch(7, "events", [], Clock())
    batch.entries.append(Entry(Position(offset, 1), "examples", b"k", b"v", (), NOON))
    batch.people[user] = Dossier(Person(version=1))
    batch.touched.add(user)
    return batch


def step(fence: Fence, to: int) -> Fence:
    return msgspec.structs.replace(fence, next=to, emitted=Position(to - 1, 1))


async def test_a_node_of_a_cluster_is_not_taken_for_all_of_it(nodes: list[Node]) -> None:
    """What it would have caught: a worker that waits for ever for keys that are on the other nodes."""
    settings = Settings(redis={"url": f"redis://127.0.0.1:{nodes[0].server.port}/0"})
    async with connect_redis(settings) as redis:
        with pytest.raises(BadSettings, match=r"redis\.cluster"):
            await check_cluster(redis, settings)


async def test_a_cluster_that_does_not_answer_is_an_outage_like_any_other() -> None:
    """What it would have caught: a worker that takes the client's own kind of exception for a bug, and says so."""
    redis = connect_redis(Settings(redis={"url": f"redis://127.0.0.1:{free_port()}", "cluster": True}))
    for _ in range(2):
        with pytest.raises(RedisError):
            await read_fence(redis, tag_events(0))
    with pytest.raises(RedisError):
        await check_eviction(redis)
    await redis.aclose()
