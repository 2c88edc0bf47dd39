"""The demo, whole: what it counts, how it ends, and that it leaves nothing behind whoever ends it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream.commands import CommandError
from stream.demo import worker as worker_module
from stream.demo.runner import Options, play
from stream.demo.summary import Summary
from stream.demo.worker import WorkerFailed, WorkerProcess
from stream.embedded import Guard, Server, free_port
from stream.sample.broken import BROKEN, DUPLICATES

ROOT = Path(__file__).parents[2]
EVENTS = 1_500
ENDS = ("events_scored", "duplicates", "dead_letters", "denied")
DEMO = (sys.executable, "-c", "from stream.cli import main; main()", "demo")

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
needs_kafka = pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason="KAFKA_HOME names no Apache Kafka")

SHORT_LOG = """
import sys
from stream.demo import runner
from stream.sample.log import SampleLog

whole = SampleLog.load()
runner.SampleLog = type("Short", (), {"load": staticmethod(
    lambda: SampleLog(whole._table.slice(0, 600), whole._catalogue.slice(0, 100)))})
from stream.cli import main
main()
"""
"""The demo on the first events of the sample."""

CTRL_C_IN_A_FINALISER = """
import signal, sys
from stream.demo import runner

class Unlucky:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def tell(*_):
    Unlucky()
    print("the interrupt was swallowed", file=sys.stderr)

runner.tell_addresses = tell
from stream.cli import main
main()
"""
"""The demo, interrupted where Python can't raise; with few events it would end by itself with 0."""

BROKEN_STAGE = """
import sys
from zlib import crc32
from stream.cli import main
{patch}
main()
"""
FORGETFUL_GATE = """
from stream.stages.gate import Gate
admit = Gate._admit
def forget(self, batch, item, event):
    if crc32(event.event_id.encode()) % 100:
        admit(self, batch, item, event)
Gate._admit = forget
"""
FORGETFUL_DRAIN = """
from stream.delivery.outbox import Drain
deliver = Drain._deliver
async def lose(self, chunk):
    await deliver(self, [entry for entry in chunk if entry.target != "dead_letters"])
Drain._deliver = lose
"""
FORGETFUL_LEARNER = """
from stream.agents.learn import LearnSession
learn = LearnSession._learn
def skip(self, record):
    if record.offset % 50:
        learn(self, record)
LearnSession._learn = skip
"""
COMPLAINT = """
import logging
from stream.agents.score import Scoring
begin = Scoring.open
def complain(self, partition, fence):
    logging.getLogger("stream").error("something is wrong")
    return begin(self, partition, fence)
Scoring.open = complain
"""
WORKER_THAT_DIES = """
import os
from stream.stages.gate import Gate
admit = Gate._admit
left = 300
def die(self, *event):
    global left
    left -= 1
    if not left:
        os.write(2, b"out of luck\\n")
        os._exit(7)
    admit(self, *event)
Gate._admit = die
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of the machine's settings: the demo starts its own servers, in a folder of the test's."""
    for name in [name for name in os.environ if name.startswith("NUDGE_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def remains(tmp_path: Path) -> Callable[[], list[str]]:
    """What the test's demo has left: processes that have the test's folder in their environment, and files there."""
    folder = tmp_path / "temporary"

    def look() -> list[str]:
        found = [str(path) for path in folder.iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            try:
                if f"TMPDIR={folder}".encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
            except OSError:  # gone
                continue
        return found

    return look


def wait_until(true: Callable[[], bool], patience_s: float = 60.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Spoken:
    """The lines that a process has said on standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        assert process.stderr is not None
        self._thread = threading.Thread(target=lambda: self.lines.extend(iter(process.stderr.readline, "")))
        self._thread.start()

    def heard(self, words: str) -> bool:
        return any(re.search(words, line) for line in list(self.lines))

    def all(self) -> str:
        self._thread.join(20)
        return "".join(self.lines)


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DEMO, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def write_worker(folder: Path, patch: str) -> tuple[str, ...]:
    """The command of a worker in which something is changed."""
    script = folder / "worker.py"
    script.write_text(BROKEN_STAGE.format(patch=patch))
    return (sys.executable, str(script), "worker")


@pytest.mark.parametrize("broker", ["embedded", pytest.param("kafka", marks=needs_kafka)])
def test_every_event_of_the_demo_is_accounted_for(broker: str, remains: Callable[[], list[str]]) -> None:
    # when the demo runs to its end
    demo = start("--events", str(EVENTS), "--rate", "3000", "--json", "--no-browser", "--broker", broker)
    output, errors = demo.communicate(timeout=150)
    # then its one line of output adds up
    assert demo.returncode == 0, errors
    (line,) = output.splitlines()
    found = json.loads(line)
    assert found.keys() == {*Summary.__struct_fields__, "balanced"}
    assert found["balanced"]
    assert found["events_in"] == EVENTS + len(BROKEN) + DUPLICATES
    assert sum(found[name] for name in ENDS) == found["events_in"]
    assert found["dead_letters_by_reason"] == {each.reason: 1 for each in BROKEN}
    assert found["profiles"] == found["consents"] > 200
    assert found["denied"] > 0
    assert found["duplicates"] == DUPLICATES
    assert found["examples"] > 100
    assert found["model_version"] > 0
    assert sum(found["sentiment"].values()) > 0
    assert found["errors"] == 0
    # and nothing is left
    assert remains() == []


def test_a_stage_that_loses_events_ends_the_demo_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given a worker whose gate forgets one event in a hundred
    worker = write_worker(tmp_path, FORGETFUL_GATE)
    # when the demo runs with it
    code = play(Options(events=EVENTS, rate=None, as_json=True, patience=10.0, worker=worker))
    # then it gives up, says which counter stands, and the summary does not add up
    output = capsys.readouterr()
    found = json.loads(output.out.splitlines()[-1])
    assert code == 1
    assert re.search(r"nothing has moved for 10 s: 1,\d+ of 1,509 events are accounted for", output.err)
    assert re.search(r"but 1,509 acknowledged: \d+ too few", output.err)
    assert not found["balanced"]
    assert sum(found[name] for name in ENDS) < found["events_in"]


def test_what_is_lost_behind_the_commit_breaks_a_sum_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # given a worker whose outbox loses dead letters, whose learner skips examples, and which logs an error
    worker = write_worker(tmp_path, FORGETFUL_DRAIN + FORGETFUL_LEARNER + COMPLAINT)
    # when the demo runs with it
    code = play(Options(events=EVENTS, rate=None, as_json=True, patience=10.0, worker=worker))
    # then each is told, although every event came to an end
    output = capsys.readouterr()
    found = json.loads(output.out.splitlines()[-1])
    assert code == 1
    assert f"0 dead letters on their topic, but {len(BROKEN)} decided" in output.err
    assert re.search(r"examples learned, but \d+ decided: \d+ too few", output.err)
    assert "something is wrong" in output.err
    assert found["errors"] > 0
    assert not found["balanced"]
    assert sum(found[name] for name in ENDS) == found["events_in"]


@needs_proc
def test_a_worker_that_does_not_start_is_told_with_the_end_of_its_log(remains: Callable[[], list[str]]) -> None:
    command = (sys.executable, "-c", "print('no luck today'); raise SystemExit(3)")

    with pytest.raises(WorkerFailed, match=r"(?s)exit code 3.*no luck today"):
        play(Options(events=10, as_json=True, worker=command))

    assert remains() == []


@needs_proc
def test_a_worker_that_dies_on_the_way_ends_the_demo(tmp_path: Path, remains: Callable[[], list[str]]) -> None:
    with pytest.raises(WorkerFailed, match=r"(?s)exit code 7.*out of luck"):
        play(Options(events=EVENTS, rate=None, as_json=True, worker=write_worker(tmp_path, WORKER_THAT_DIES)))

    assert remains() == []


@needs_proc
@pytest.mark.parametrize(
    "moment", ["starting the embedded", "starting a worker", "sending the catalogue", r"[1-9]\d* sent"]
)
def test_ctrl_c_at_any_moment_ends_with_130_and_leaves_nothing(moment: str, remains: Callable[[], list[str]]) -> None:
    demo = start("--no-browser", "--rate", "99")
    spoken = Spoken(demo)
    assert wait_until(lambda: spoken.heard(moment) or demo.poll() is not None)

    os.killpg(demo.pid, signal.SIGINT)

    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, spoken.all()
    assert "Traceback" not in spoken.all()
    assert output == ""
    assert remains() == []


@needs_proc
def test_ctrl_c_that_python_loses_ends_the_demo_too(remains: Callable[[], list[str]]) -> None:
    command = (sys.executable, "-c", CTRL_C_IN_A_FINALISER, "demo", "--no-browser", "--events", "20")

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert "the interrupt was swallowed" in ended.stderr
    assert ended.returncode == 130, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert remains() == []


@needs_proc
def test_worker_and_servers_are_gone_after_the_parent_was_killed(remains: Callable[[], list[str]]) -> None:
    demo = start("--no-browser", "--rate", "99")
    spoken = Spoken(demo)
    assert wait_until(lambda: spoken.heard(r"[1-9]\d* sent"))
    assert any("worker" in one for one in remains())

    demo.kill()
    demo.communicate(timeout=30)
    spoken.all()

    assert wait_until(lambda: remains() == [])


@needs_proc
def test_on_a_terminal_it_stays_after_the_logs_end_until_ctrl_c(remains: Callable[[], list[str]]) -> None:
    # given a demo on a terminal
    ours, theirs = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-c", SHORT_LOG, "demo", "--no-browser"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "100", "LINES": "30", "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = bytearray()
    reader = threading.Thread(target=lambda: shown.extend(b"".join(_read(ours, shown))))
    reader.start()
    # when its log has ended, it stays
    assert wait_until(lambda: b"Ctrl-C leaves" in shown, 60.0), shown.decode(errors="replace")
    time.sleep(1.5)
    assert demo.poll() is None
    # until it is interrupted
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(30) == 0
    reader.join(20)
    os.close(ours)
    text = shown.decode()
    for said in ("newest triggers", "609 in", "live page: http://127.0.0.1:", "export NUDGE_KAFKA_BOOTSTRAP=127.0.0.1:",
                 "calibration ratio", "nudge dlq list"):  # fmt: skip
        assert said in text, said
    assert "Traceback" not in text
    assert remains() == []


def _read(terminal: int, into: bytearray) -> Iterator[bytes]:
    """Everything until the other side is closed, put into `into` at once."""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:
            return
        if not part:
            return
        into += part
        yield b""


def test_given_servers_are_used_and_never_twice(
    kafka_bootstrap: str,
    own_redis: Server,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # given a broker and a Redis in the settings
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAP", kafka_bootstrap)
    monkeypatch.setenv("NUDGE_REDIS_URL", f"redis://127.0.0.1:{own_redis.port}/0")
    monkeypatch.setenv("NUDGE_APP", topic_prefix.rstrip("."))
    for topic in ("events", "privacy", "items", "recommendations", "examples", "dead_letters"):
        monkeypatch.setenv(f"NUDGE_TOPICS_{topic.upper()}", topic_prefix + topic)
    # when the demo runs, it uses them
    play(Options(events=300, rate=None, as_json=True))
    output = capsys.readouterr()
    assert json.loads(output.out)["balanced"], output.err
    assert "starting the embedded" not in output.err
    # and a second one would count the first one's records along, so it is refused: by Redis, then by the topics
    with pytest.raises(CommandError, match="redis"):
        play(Options(events=300, as_json=True))
    own_redis.restart()
    with pytest.raises(CommandError, match=f"{topic_prefix}.* holds records"):
        play(Options(events=300, as_json=True))


def test_a_worker_that_ignores_sigterm_is_killed_after_its_grace(
    guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "GRACE_SECONDS", 0.3)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(99)"
    )
    worker = WorkerProcess((sys.executable, "-c", code), os.environ, guard=guard, folder=tmp_path, port=free_port())
    assert wait_until(lambda: "deaf" in worker.log.read_text())

    began = time.monotonic()
    worker.stop()

    assert 0.3 <= time.monotonic() - began < 5.0
    worker.stop()


def test_a_worker_that_never_becomes_ready_is_given_up(guard: Guard, tmp_path: Path) -> None:
    code = "import time; print('thinking', flush=True); time.sleep(99)"
    worker = WorkerProcess((sys.executable, "-c", code), os.environ, guard=guard, folder=tmp_path, port=free_port())
    assert wait_until(lambda: "thinking" in worker.log.read_text())
    try:
        with pytest.raises(WorkerFailed, match=r"(?s)not ready after 0.2 s.*thinking"):
            worker.wait_until_ready(0.2)
    finally:
        worker.stop()
