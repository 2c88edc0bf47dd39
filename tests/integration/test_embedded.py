"""Servers that nudge starts: they come up, come back, and never outlive whoever started them."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis import Redis

from stream.broker import TopicSpec, ensure_topics
from stream.embedded import (
    Guard,
    Server,
    ServerError,
    ServerNotReadyError,
    engine_answers,
    free_port,
    start_kafka,
    start_redis,
    start_servers,
    start_tansu,
)
from stream.embedded.server import Recipe

KAFKA_HOME = os.environ.get("KAFKA_HOME")
needs_kafka = pytest.mark.skipif(not KAFKA_HOME, reason="KAFKA_HOME names no Apache Kafka")
needs_proc = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")

PARENT = """
import sys, time
from stream.embedded import start_servers
with start_servers(sys.argv[1]) as servers:
    print(servers.folder, flush=True)
    time.sleep(600)
"""


def processes_in(folder: Path) -> list[int]:
    """The living processes that work in `folder` or below, as each server does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(process / "cwd").removesuffix(" (deleted)")
        except OSError:  # gone, or dead and not yet waited for
            continue
        if Path(where).is_relative_to(folder):
            found.append(int(process.name))
    return found


def start_parent(broker: str, folder: Path) -> subprocess.Popen[str]:
    """A process of its own session that starts servers in a folder below `folder` and prints its name."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, broker],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def wait_until(true: Callable[[], bool], patience_s: float = 15.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@needs_proc
@pytest.mark.parametrize(
    ("broker", "how"),
    [
        ("embedded", signal.SIGKILL),
        ("embedded", signal.SIGTERM),
        ("embedded", signal.SIGINT),
        pytest.param("kafka", signal.SIGKILL, marks=needs_kafka),
    ],
)
def test_no_server_and_no_file_outlives_the_parent(broker: str, how: signal.Signals, tmp_path: Path) -> None:
    # given a process that has started both servers
    with start_parent(broker, tmp_path) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        servers = processes_in(folder)
        assert len(servers) == 2
        # when it is ended, as Ctrl-C does it: the whole foreground group at once
        os.killpg(parent.pid, how)
    # then the servers and all their files are gone
    assert wait_until(lambda: not processes_in(tmp_path))
    assert wait_until(lambda: not list(tmp_path.iterdir()))


@needs_proc
def test_a_parent_killed_while_it_starts_servers_leaves_nothing(tmp_path: Path) -> None:
    for round_ in range(8):
        with start_parent("embedded", tmp_path) as parent:
            wait_until(lambda: any(tmp_path.iterdir()))  # from here on both servers start within a few hundredths
            time.sleep(random.Random(round_).uniform(0, 0.08))
            parent.kill()
        assert wait_until(lambda: not processes_in(tmp_path) and not list(tmp_path.iterdir()))


@needs_proc
def test_the_context_leaves_nothing_when_its_body_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail_inside() -> None:
        with start_servers():
            assert len(processes_in(tmp_path)) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not processes_in(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_server_is_not_started_before_the_guard_knows_it(tmp_path: Path) -> None:
    # given a guard whose pipe breaks before the pid gets through
    guard = Guard()
    guard._sweeper.kill()
    guard._sweeper.wait()
    # when a command is to be started
    with pytest.raises(BrokenPipeError):
        guard.spawn(["/bin/sh", "-c", "touch started"], log=tmp_path / "log", folder=tmp_path, env=os.environ)
    # then it never runs
    time.sleep(0.2)
    assert not (tmp_path / "started").exists()
    guard.close()


def test_what_is_given_is_not_started() -> None:
    with start_servers(kafka_bootstrap="kafka:9092", redis_url="redis://redis:6379/0") as servers:
        assert servers.kafka_bootstrap == "kafka:9092"
        assert servers.redis_url == "redis://redis:6379/0"
        assert servers.folder is None
    with start_servers(redis_url="redis://redis:6379/0") as servers:
        assert servers.folder is not None
        assert [file.name for file in servers.folder.iterdir()] == ["tansu.log"]


def test_redis_listens_on_one_loopback_address_and_evicts_nothing(own_redis: Server) -> None:
    with Redis(port=own_redis.port) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}
        assert client.config_get("save") == {"save": ""}
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.2", own_redis.port), timeout=1)


def test_redis_scripts_can_pack_messages(own_redis: Server) -> None:
    with Redis(port=own_redis.port) as client:
        assert client.eval("return cmsgpack.unpack(cmsgpack.pack({'a', 7}))", 0) == [b"a", 7]


def test_a_killed_redis_comes_back_empty_on_its_port(own_redis: Server) -> None:
    port, pid = own_redis.port, own_redis.pid
    with Redis(port=port) as client:
        client.set("key", "value")
    own_redis.kill()
    own_redis.restart()
    assert own_redis.port == port
    assert own_redis.pid != pid
    with Redis(port=port) as client:
        assert client.get("key") is None


def test_a_killed_durable_redis_comes_back_with_all_that_it_acknowledged(own_durable_redis: Server) -> None:
    with Redis(port=own_durable_redis.port) as client:
        for n in range(1000):
            client.incrby("sum", n)
    own_durable_redis.kill()
    own_durable_redis.restart()
    with Redis(port=own_durable_redis.port) as client:
        assert client.get("sum") == str(sum(range(1000))).encode()


def test_a_stopped_server_has_no_pid_and_may_be_stopped_again(tmp_path: Path) -> None:
    server = start_tansu(tmp_path)
    server.stop()
    server.stop()
    with pytest.raises(ServerError, match="not running"):
        _ = server.pid
    with server.restart():
        assert server.pid > 0


def test_a_server_runs_once(own_redis: Server) -> None:
    with pytest.raises(ServerError, match="runs already"):
        own_redis.start()


def test_a_server_that_ends_at_once_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServerNotReadyError, match=r"(?s)ended with status.*Address already in use"):
            start_redis(tmp_path, taken.getsockname()[1])


@needs_proc
def test_a_server_that_never_answers_is_given_up_and_killed(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo thinking; sleep 600"]  # two processes: the shell and its child
    recipe = Recipe(name="mute", command=command, ready=lambda port: False, patience_s=0.3)
    with pytest.raises(ServerNotReadyError, match=r"(?s)did not answer within 0.3 s.*thinking"):
        Server(recipe, folder=tmp_path, port=free_port()).start()
    assert not processes_in(tmp_path)


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 30_000 for _ in range(20))


def test_kafka_without_a_distribution_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(ServerError, match="KAFKA_HOME"), start_servers("kafka"):
        pass
    with pytest.raises(ServerError, match="KAFKA_HOME"):
        start_kafka(tmp_path, tmp_path)


@needs_kafka
async def test_a_killed_kafka_comes_back_with_its_log(guard: Guard) -> None:
    partition = TopicPartition("kept", 0)
    with start_kafka(Path(str(KAFKA_HOME)), guard.make_folder(), guard=guard) as kafka:
        bootstrap, pid = f"127.0.0.1:{kafka.port}", kafka.pid
        # given an acknowledged record
        await ensure_topics(bootstrap, [TopicSpec(name="kept", partitions=1)])
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
            await producer.send_and_wait("kept", b"record", partition=0)
        # when the broker is killed and started again
        kafka.kill()
        kafka.restart()
        assert kafka.pid != pid
        # then the record is there
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as reader:
            reader.assign([partition])
            reader.seek(partition, 0)
            assert (await reader.getone()).value == b"record"


@pytest.mark.skipif(engine_answers(), reason="there is a Docker engine")
def test_docker_without_an_engine_says_so() -> None:
    with pytest.raises(ServerError, match="no Docker engine answers"), start_servers("docker"):
        pass


@pytest.mark.skipif(not engine_answers(), reason="there is no Docker engine")
@pytest.mark.slow
def test_containers_answer() -> None:
    with start_servers("docker") as servers, Redis.from_url(servers.redis_url) as client:
        assert client.ping()
        host, port = servers.kafka_bootstrap.rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=5).close()
