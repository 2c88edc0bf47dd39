"""Settings: every problem told at once with its place, and never a secret."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.settings import (
    FOREIGN,
    AbandonedRule,
    BadSettings,
    ScoreRule,
    Settings,
    load_settings,
    parse_duration,
    require_servers,
)

SECRET = "hunter2-hunter2-hunter2"


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start in, and no variables of ours; returns where nudge.yaml would be."""
    for name in [name for name in os.environ if name.startswith("NUDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "nudge.yaml"


def problems(**overrides: Any) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load_settings(**overrides)
    return str(caught.value).splitlines()


def test_the_defaults_need_nothing() -> None:
    settings = load_settings()
    assert settings.consent.mode == "required"
    assert settings.http.host == "127.0.0.1"
    assert [rule.name for rule in settings.rules] == ["likely-to-convert", "abandoned-intent"]


def test_arguments_go_over_the_environment_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("app: from-file\nlateness: 1m\nbatch: {max_records: 7, cached_people: 100}\n")
    monkeypatch.setenv("NUDGE_LATENESS", "2m")
    monkeypatch.setenv("NUDGE_BATCH_MAX_RECORDS", "8")
    settings = load_settings(app="argued")
    assert (settings.app, settings.lateness) == ("argued", 120_000)
    assert (settings.batch.max_records, settings.batch.cached_people) == (8, 100)


def test_every_section_and_field_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NUDGE_KAFKA_BOOTSTRAP": "b:9092",
        "NUDGE_KAFKA_SESSION_TIMEOUT": "10s",
        "NUDGE_MODELS_SNAPSHOT_KEY": SECRET,
        "NUDGE_ON_LOG_MISMATCH": "earliest",
        "NUDGE_FUTURE_TOLERANCE": "250",
        "NUDGE_HTTP_PORT": "0",
        "NUDGE_ROLES": '{"mooed": "click"}',
        "NUDGE_SCORE_ON": '["view"]',
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.kafka.bootstrap == "b:9092"
    assert settings.kafka.session_timeout == 10_000
    assert settings.models.snapshot_key is not None
    assert settings.models.snapshot_key.get_secret_value() == SECRET
    assert settings.on_log_mismatch == "earliest"
    assert settings.future_tolerance == 250
    assert settings.http.port == 0
    assert settings.roles == {"mooed": "click"}
    assert settings.score_on == ("view",)


def test_all_problems_come_at_once_with_field_and_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        "app: nudge\n"
        "lateness: soon\n"
        "colour: blue\n"
        "batch:\n"
        "  max_records: 0\n"
        "  max_recods: 5\n"
        "rules:\n"
        "  - {kind: score, name: ok, at_least: 0.5}\n"
        "  - kind: score\n"
        "    name: ok-too\n"
        "    at_least: 1.5\n"
        "  - kind: guess\n"
        "    name: x\n"
        "roles:\n"
        "  mooed: cow\n"
    )
    monkeypatch.setenv("NUDGE_HTTP_PORT", "http")
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAPS", "b:9092")
    monkeypatch.setenv("NUDGE_COLOUR", "blue")

    found = problems()

    def line(start: str) -> str:
        (one,) = [problem for problem in found if problem.startswith(start)]
        return one

    assert line("NUDGE_KAFKA_BOOTSTRAPS:")
    assert line("NUDGE_COLOUR:")
    assert "'soon'" in line("lateness:")
    assert line("lateness:").endswith("line 2")
    assert line("colour:").endswith("line 3")
    assert line("batch.max_records:").endswith("line 5")
    assert line("batch.max_recods:").endswith("line 6")
    assert line("rules.1.score.at_least:").endswith("line 11")
    assert line("rules.2:").endswith("line 12")
    assert line("roles.mooed:").endswith("line 15")
    assert "'http'" in line("http.port:")
    assert "line" not in line("http.port:").partition("found")[2]
    assert len(set(found)) == len(found)


def test_an_unknown_variable_is_an_error_and_a_foreign_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN - {"NUDGE_CONFIG"}:
        monkeypatch.setenv(name, "x")
    load_settings()
    monkeypatch.setenv("NUDGE_BATCH", "{}")
    load_settings()
    monkeypatch.setenv("NUDGE_BACTH_MAX_RECORDS", "5")
    assert problems() == ["NUDGE_BACTH_MAX_RECORDS: no such setting; remove it or correct its name"]


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {{password: [{SECRET}]}}",
        f"kafka: {{pasword: {SECRET}}}",
        f"kafka: {{sasl_pass: {SECRET}}}",
        f"models: {{snapshot_key: {{a: {SECRET}}}}}",
        f"models: {{snapshot_secret: {SECRET}}}",
        f"http: {{token: [{SECRET}]}}",
        f"redis: {{url: ['redis://:{SECRET}@host:6379']}}",
        f"redis: 'redis://:{SECRET}@host:6379'",
        f"kafka: {{security_protocol: SASL_SSL, password: {SECRET}}}",
        f"secret: {SECRET}",
        f"kafka: {{password: {SECRET}, session_timeout: 1s}}",
        f"kafka: {{password: '{SECRET}'\n",
        f"kafka:\n  password: {SECRET}\n bad: [",
        f"kafka: {{password: !secret {SECRET}}}",
    ],
)
def test_a_secret_is_never_printed(config: Path, text: str) -> None:
    config.write_text(text)
    found = "\n".join(problems())
    assert found
    assert SECRET not in found


def test_a_secret_of_the_environment_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "NUDGE_KAFKA_PASWORD": SECRET,
        "NUDGE_SECRET": SECRET,
        "NUDGE_KAFKA": f'{{"password": "{SECRET}"',
        "NUDGE_MODELS": f'{{"snapshot_kei": "{SECRET}"}}',
    }.items():
        monkeypatch.setenv(name, value)
        assert SECRET not in "\n".join(problems()), name
        monkeypatch.delenv(name)


def test_settings_in_a_log_hide_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_PASSWORD", "MODELS_SNAPSHOT_KEY", "HTTP_TOKEN"):
        monkeypatch.setenv(f"NUDGE_{name}", SECRET)
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings}"


def test_a_file_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUDGE_CONFIG", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("NUDGE_HTTP_PORT", "-1")
    found = problems()
    assert any(problem.startswith("NUDGE_CONFIG:") for problem in found)
    assert any(problem.startswith("http.port:") for problem in found)

    (tmp_path / "other.yaml").write_text("app: other\n")
    monkeypatch.setenv("NUDGE_CONFIG", str(tmp_path / "other.yaml"))
    monkeypatch.delenv("NUDGE_HTTP_PORT")
    assert load_settings().app == "other"


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "just text\n", "a: [\n", "a: b: c\n", "\tapp: x\n", "app: !!python/x y\n"]
)
def test_a_file_that_is_no_mapping_is_a_problem_not_a_crash(config: Path, text: str) -> None:
    config.write_text(text)
    assert any("nudge.yaml" in problem or "settings" in problem for problem in problems())


def test_an_empty_file_is_fine(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert load_settings().app == "nudge"


def test_rules_and_outcomes_have_names_of_their_own_and_agree() -> None:
    rule = {"name": "r", "kind": "abandoned"}
    (found,) = problems(
        rules=[rule, rule, {"name": "s", "kind": "score", "outcome": "churn", "at_least": 0.5}],
        outcomes=[{"name": "a"}, {"name": "a"}],
    )
    assert "outcome 'a' is there twice" in found
    assert "rule 'r' is there twice" in found
    assert "rule 's' looks at outcome 'churn'" in found


def test_a_rule_is_read_by_its_kind() -> None:
    settings = load_settings(
        rules=[{"kind": "abandoned", "name": "a", "after": "10m"}, {"kind": "score", "name": "b", "at_least": 0.5}]
    )
    first, second = settings.rules
    assert isinstance(first, AbandonedRule)
    assert first.after == 600_000
    assert isinstance(second, ScoreRule)


def test_heartbeats_must_fit_into_the_session_thrice() -> None:
    load_settings(kafka={"heartbeat": "2s", "session_timeout": "6s"})
    (found,) = problems(kafka={"heartbeat": "2001ms", "session_timeout": "6s"})
    assert found.startswith("kafka:")
    assert "2001" in found


def test_sasl_needs_a_user_and_a_password() -> None:
    (found,) = problems(kafka={"security_protocol": "SASL_PLAINTEXT", "username": "u"})
    assert "needs username and password" in found


def test_a_worker_needs_servers_and_a_key() -> None:
    with pytest.raises(BadSettings) as caught:
        require_servers(load_settings())
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "kafka.bootstrap",
        "redis.url",
        "models.snapshot_key",
    ]
    require_servers(
        load_settings(kafka={"bootstrap": "b:1"}, redis={"url": "redis://r"}, models={"snapshot_key": SECRET})
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("15m", 900_000),
        ("6h", 21_600_000),
        ("7d", 604_800_000),
        (" 1.5 s ", 1_500),
        ("250", 250),
        (0, 0),
        ("0", 0),
        ("0.5d", 43_200_000),
    ],
)
def test_durations_are_milliseconds_inside(text: object, wanted: int) -> None:
    assert parse_duration(text) == wanted
    assert load_settings(lateness=text).lateness == wanted


@pytest.mark.parametrize(
    "text", ["", "s", "-5s", "5 weeks", "1h30m", "1e3s", "ten", None, [5], {}, 1.5, "5S", "nan", True]
)
def test_what_is_no_duration_is_a_problem(text: object) -> None:
    (found,) = problems(lateness=text)
    assert found.startswith("lateness:")


@pytest.mark.parametrize("text", [-1, "9" * 400 + "d", "9" * 30])
def test_a_duration_has_bounds(text: object) -> None:
    (found,) = problems(profile_ttl=text)
    assert found.startswith("profile_ttl:")


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert parse_duration(text) >= 0


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.app = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.kafka.bootstrap = "b"  # type: ignore[misc]
    assert isinstance(settings, Settings)
