"""The console script: what it loads, how it ends, what it passes on."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stream.cli import app
from stream.commands import CommandError

runner = CliRunner()

COMMANDS = (
    "worker",
    "demo",
    "produce",
    "sentiment",
    "backtest",
    "train",
    "doctor",
    "status",
    "profile",
    "tail",
    "dlq",
    "models",
    "features",
    "schemas",
)


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No nudge.yaml and no variables of the machine."""
    import os

    for name in [name for name in os.environ if name.startswith("NUDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(f"\n  {command} " in result.output for command in COMMANDS)


def test_help_loads_no_client_and_no_model() -> None:
    code = (
        "import sys, json\n"
        "from stream.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    loaded = set(json.loads(output.splitlines()[-1]))
    heavy = {"aiokafka", "faust", "redis", "river", "onnxruntime", "numpy", "pydantic", "pyarrow", "msgspec", "pygal"}
    assert not loaded & heavy


@pytest.mark.parametrize("command", [["status"], ["doctor"], ["tail"], ["profile", "ann"], ["dlq", "list"], ["worker"]])
def test_bad_settings_are_all_told_and_end_with_2(command: list[str], empty_folder: Path) -> None:
    (empty_folder / "nudge.yaml").write_text("clock: sun\nbatch:\n  max_records: 0\n")
    result = runner.invoke(app, command)
    assert result.exit_code == 2
    assert "clock" in result.stderr
    assert "batch.max_records" in result.stderr
    assert "Traceback" not in result.output


def test_a_missing_address_names_the_variable() -> None:
    for command, variable in (("tail", "NUDGE_KAFKA_BOOTSTRAP"), ("status", "NUDGE_REDIS_URL")):
        result = runner.invoke(app, [command])
        assert result.exit_code == 2
        assert variable in result.stderr


@pytest.mark.parametrize(
    ("command", "address"),
    [(["profile", "ann"], "127.0.0.1:1"), (["tail"], "127.0.0.1:2"), (["status"], "127.0.0.1:1")],
)
def test_an_outage_names_the_address_without_credentials_and_ends_with_3(
    command: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUDGE_REDIS_URL", "redis://operator:hunter2@127.0.0.1:1/0?password=hunter3")
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAP", "127.0.0.1:2")
    result = runner.invoke(app, command)
    assert result.exit_code == 3
    assert address in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "hunter" not in result.output
    assert "operator" not in result.output


def test_a_redis_address_that_is_none_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_REDIS_URL", "http://operator:hunter2@cache:6379")
    result = runner.invoke(app, ["profile", "ann"])
    assert result.exit_code == 2
    assert "redis.url" in result.stderr
    assert "hunter2" not in result.output


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_REDIS_URL", "redis://127.0.0.1:1")
    result = runner.invoke(app, ["--debug", "profile", "ann"])
    assert isinstance(result.exception, CommandError)
    assert result.exc_info is not None
    assert result.exc_info[2] is not None


def test_the_worker_gets_the_settings_and_the_port(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    seen: list[object] = []
    monkeypatch.setitem(sys.modules, "stream.process", types.SimpleNamespace(run_worker=seen.append))
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAP", "127.0.0.1:2")
    monkeypatch.setenv("NUDGE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("NUDGE_MODELS_SNAPSHOT_KEY", "k" * 32)
    (empty_folder / "nudge.yaml").write_text("http:\n  host: 127.0.0.2\n  port: 6000\n")
    assert runner.invoke(app, ["worker", "--http-port", "6001"]).exit_code == 0
    (settings,) = seen
    assert (settings.http.host, settings.http.port) == ("127.0.0.2", 6001)


def test_a_worker_without_servers_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setitem(sys.modules, "stream.process", types.SimpleNamespace(run_worker=seen.append))
    result = runner.invoke(app, ["worker"])
    assert result.exit_code == 2
    assert all(option in result.stderr for option in ("kafka.bootstrap", "redis.url", "models.snapshot_key"))
    assert seen == []


def test_the_demo_gets_its_options_and_gives_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def run_demo(**options: object) -> int:
        seen.append(options)
        return 4

    monkeypatch.setitem(sys.modules, "stream.demo", types.SimpleNamespace(run_demo=run_demo))
    arguments = ["demo", "--events", "500", "--rate", "20", "--json", "--no-browser", "--broker", "kafka"]
    assert runner.invoke(app, arguments).exit_code == 4
    assert seen == [{"events": 500, "rate": 20.0, "json": True, "browser": False, "broker": "kafka"}]
    runner.invoke(app, ["demo"])
    assert seen[1] == {"events": None, "rate": None, "json": False, "browser": True, "broker": "embedded"}


def test_replay_asks_which_dead_letters() -> None:
    assert runner.invoke(app, ["dlq", "replay"]).exit_code == 2
    assert runner.invoke(app, ["dlq", "replay", "--all", "--reason", "json"]).exit_code == 2


def test_written_schemas_are_those_that_ship(empty_folder: Path) -> None:
    from schemas.documents import build_documents

    assert runner.invoke(app, ["schemas", "--write", str(empty_folder / "out")]).exit_code == 0
    written = {path.name: path.read_bytes() for path in (empty_folder / "out").iterdir()}
    assert written == build_documents()
    listed = runner.invoke(app, ["schemas"]).output
    assert all(name in listed for name in written)
    assert runner.invoke(app, ["schemas", "--check"]).exit_code == 0


def test_produce_refuses_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAP", "127.0.0.1:2")
    result = runner.invoke(app, ["produce", "nowhere.jsonl"])
    assert result.exit_code == 1
    assert "nowhere.jsonl" in result.stderr
