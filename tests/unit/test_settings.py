"""Settings: every problem told at once with its place, and never a secret."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from aiokafka.conn import collect_hosts
from hypothesis import given
from hypothesis import strategies as st

from stream.configuration import FOREIGN
from stream.conflicts import TOPICS
from stream.durations import parse_duration
from stream.settings import (
    AbandonedRule,
    BadSettings,
    ScoreRule,
    Settings,
    Topics,
    load_settings,
    load_worker_settings,
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


@pytest.mark.parametrize(("written", "fixed"), [("auto", None), ("0", 0), ("2", 2), ("4", 4)])
def test_the_level_of_sentiment_is_fixed_by_a_number_and_follows_the_load_otherwise(
    config: Path, monkeypatch: pytest.MonkeyPatch, written: str, fixed: int | None
) -> None:
    assert load_settings().sentiment.fixed_level is None
    config.write_text(f"sentiment: {{level: {written}}}\n")
    assert load_settings().sentiment.fixed_level == fixed
    config.unlink()
    monkeypatch.setenv("NUDGE_SENTIMENT_LEVEL", written)
    assert load_settings().sentiment.fixed_level == fixed


def test_a_level_or_a_deadline_that_means_nothing_is_told(config: Path) -> None:
    config.write_text("sentiment:\n  level: 5\n  deadline: 0\n  cache: -1\n")
    found = problems()
    assert len(found) == 3
    assert "sentiment.level" in found[0]
    assert "'auto', '0', '1', '2', '3' or '4'" in found[0]
    assert "line 2" in found[0]
    assert "sentiment.deadline: must be at least 1 millisecond" in found[1]
    assert "sentiment.cache" in found[2]


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


def test_a_category_stands_for_a_purpose_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().consent.categories["marketing"] == "marketing"
    monkeypatch.setenv("NUDGE_CONSENT_CATEGORIES", '{"C0004": "marketing"}')
    assert load_settings().consent.categories == {"C0004": "marketing"}
    monkeypatch.setenv("NUDGE_CONSENT_CATEGORIES", '{"C0004": "adverts"}')
    (found,) = problems()
    assert found.startswith("consent.categories.C0004:")
    assert found.endswith("NUDGE_CONSENT_CATEGORIES")


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
    assert problems() == ["NUDGE_BACTH_MAX_RECORDS: no such setting; did you mean NUDGE_BATCH_MAX_RECORDS?"]


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
        f"kafka: {{password: !{SECRET}}}",
        f"kafka: {{password: *{SECRET}}}",
        f"kafka: {{bootstrap: 'ann:{SECRET}@b:9092'}}",
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


def test_a_key_that_is_there_twice_is_a_problem_and_not_the_last_one_that_wins(config: Path) -> None:
    config.write_text("consent:\n  mode: required\napp: x\nconsent:\n  mode: optional\nlateness: soon\n")
    twice, late = problems()
    assert twice == "nudge.yaml: consent is there twice in one section, line 4"
    assert late.startswith("lateness:")


def test_a_file_that_holds_itself_is_a_problem_not_a_crash(config: Path) -> None:
    config.write_text("a: &a [*a]\n")
    assert any("holds itself" in problem for problem in problems())


def test_a_name_that_no_broker_takes_for_a_topic_is_a_problem() -> None:
    assert any("topics.events" in problem for problem in problems(topics={"events": "bad topic!"}))


def test_an_empty_file_is_fine(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert load_settings().app == "nudge"


def test_rules_and_outcomes_have_names_of_their_own_and_agree() -> None:
    rule = {"name": "r", "kind": "abandoned"}
    assert problems(
        rules=[rule, rule, {"name": "s", "kind": "score", "outcome": "churn", "at_least": 0.5}],
        outcomes=[{"name": "a"}, {"name": "a"}],
    ) == [
        "outcomes.1.name: outcome 'a' is there twice",
        "rules.1.name: rule 'r' is there twice",
        "rules.2.outcome: rule 's' looks at outcome 'churn'; there are ['a']",
    ]


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(TOPICS, 2)])
def test_no_two_topics_have_one_name(config: Path, first: str, second: str) -> None:
    config.write_text(f"topics:\n  {first}: same\n  {second}: same\n")
    (found,) = problems()
    assert found == f"topics.{second}: topics.{first} is 'same' too; every topic needs a name of its own, line 3"


def test_a_topic_named_like_anothers_default_is_told() -> None:
    (found,) = problems(topics={"dead_letters": "marketing.events.v1"})
    assert found.startswith("topics.dead_letters: topics.events is 'marketing.events.v1' too")


def test_every_setting_that_names_a_topic_is_compared() -> None:
    texts = [name for name, field in Topics.model_fields.items() if field.annotation is str]
    assert tuple(texts) == TOPICS


def test_what_is_wrong_alone_hides_no_conflict(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        "lateness: soon\n"
        "kafka:\n"
        "  heartbeat: 5s\n"
        "  rebalance_timeout: 1ms\n"
        "topics:\n"
        "  items: marketing.privacy.v1\n"
        "rules:\n"
        "  - {kind: score, name: a, at_least: 7}\n"
        "  - {kind: guess, name: b}\n"
        "  - {kind: score, name: a, at_least: 0.5, outcome: churn}\n"
    )
    monkeypatch.setenv("NUDGE_OUTCOMES", "{")
    assert problems() == [
        "kafka.rebalance_timeout: must be at least 1 second (found 1 millisecond), line 4",
        "lateness: not a duration; write 500ms, 30s, 15m, 6h or 7d (found 'soon'), line 1",
        "outcomes: a section, list or mapping is wanted, in a variable as JSON (found text), NUDGE_OUTCOMES",
        "rules.0.score.at_least: Input should be less than 1 (found 7), line 8",
        "rules.1: Input tag 'guess' found using 'kind' does not match any of the expected tags: 'score', 'abandoned'"
        ", line 9",
        "kafka.heartbeat: 5 seconds is over a third of kafka.session_timeout, 6 seconds, line 3",
        "topics.items: topics.privacy is 'marketing.privacy.v1' too; every topic needs a name of its own, line 6",
        "rules.2.name: rule 'a' is there twice, line 10",
    ]


def test_a_wrong_value_is_no_conflict_as_well() -> None:
    """What is not known can't be compared: the default that stands in must not be held against the rest."""
    (found,) = problems(kafka={"heartbeat": "soon", "session_timeout": "1s"})
    assert found.startswith("kafka.heartbeat: not a duration")
    (found,) = problems(outcomes=[{"name": "NO"}], rules=[{"kind": "score", "name": "a", "at_least": 0.5}])
    assert found.startswith("outcomes.0.name:")
    found, also = problems(outcomes=[{"name": "A"}, {"name": "B"}])[:2]
    assert (found.partition(":")[0], also.partition(":")[0]) == ("outcomes.0.name", "outcomes.1.name")


def test_what_the_file_hides_does_not_hide_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("app: [\n")
    monkeypatch.setenv("NUDGE_HTTP_PORT", "http")
    monkeypatch.setenv("NUDGE_LATENES", "1m")
    monkeypatch.setenv("NUDGE_KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
    unknown, file, port = problems()
    assert unknown == "NUDGE_LATENES: no such setting; did you mean NUDGE_LATENESS?"
    assert file.startswith("nudge.yaml: not YAML")
    assert port.startswith("http.port:")


def test_messages_are_in_plain_words() -> None:
    assert problems(topics={"retention_examples": "36d"}) == [
        "topics.retention_examples: 36 days is too short: the longest outcome window is 30 days, and 7 days more are "
        "needed. Set 37 days or more"
    ]
    assert problems(kafka={"session_timeout": 1}) == [
        "kafka.session_timeout: must be at least 500 milliseconds (found 1 millisecond)"
    ]
    assert problems(profile_ttl="999999d") == ["profile_ttl: must be at most 36525 days (found 999999 days)"]


def test_where_a_variable_wins_it_is_named_and_not_the_files_line(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("batch:\n  max_records: 5\n")
    monkeypatch.setenv("NUDGE_BATCH_MAX_RECORDS", "many")
    (found,) = problems()
    assert found.endswith("(found 'many'), NUDGE_BATCH_MAX_RECORDS")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("batch: {max_recods: 5}", "batch.max_recods: no such setting; did you mean max_records?"),
        ("kafak: {bootstrap: b}", "kafak: no such setting; did you mean kafka?"),
        ("rules: [{kind: score, name: a, atleast: 0.5}]", "rules.0.score.atleast: no such setting; did you mean"),
        ("outcomes: [{windw: 3d}]", "outcomes.0.windw: no such setting; did you mean window?"),
        ("colour: blue", "colour: no such setting; remove it or correct its name"),
    ],
)
def test_an_unknown_name_gets_the_nearest_right_one(config: Path, text: str, meant: str) -> None:
    config.write_text(text)
    assert [problem for problem in problems() if problem.startswith(meant) and problem.endswith("line 1")]


def test_an_unknown_variable_of_a_section_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUDGE_KAFKA_BOOTSTRAPS", "b:9092")
    assert problems() == ["NUDGE_KAFKA_BOOTSTRAPS: no such setting; did you mean NUDGE_KAFKA_BOOTSTRAP?"]


@pytest.mark.parametrize(
    "url",
    [
        "foo", "http://cache:6379", "unix:///run/redis", "redis://cache:port/0", "redis://cache:6379/?nonsense=1",
        "redis://cache:6379/0?db=x",
    ],
)  # fmt: skip
def test_a_redis_address_that_no_client_takes_is_a_problem_of_its_setting(url: str) -> None:
    (found,) = problems(redis={"url": url})
    assert found == "redis.url: not a Redis address; write redis://host:port/db, or rediss:// for TLS (found str)"


@pytest.mark.parametrize("url", ["redis://r", "redis://ann:pw@[::1]:6380/2?password=other", "rediss://cache:6379"])
def test_a_redis_address_is_taken_as_it_is(url: str) -> None:
    assert load_settings(redis={"url": url}).redis.url == url


@pytest.mark.parametrize("address", ["b:port", "b:9092,", "a:1;b:2", "kafka://b:9092", "b:", ":9092", "b:999999", " "])
def test_a_broker_address_that_no_client_takes_is_a_problem_of_its_setting(address: str) -> None:
    (found,) = problems(kafka={"bootstrap": address})
    assert found.startswith("kafka.bootstrap: not an address of brokers; write host:port")


@pytest.mark.parametrize("address", ["b", "b:9092", "a:1, b:2", "[::1]:9092", "10.0.0.1:9092,k.example:9093"])
def test_a_broker_address_is_taken_as_it_is(address: str) -> None:
    assert load_settings(kafka={"bootstrap": address}).kafka.bootstrap == address
    assert len(collect_hosts(address)) == address.count(",") + 1


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
    assert found.startswith("kafka.heartbeat: 2001 milliseconds")


def test_sasl_needs_a_user_and_a_password() -> None:
    (found,) = problems(kafka={"security_protocol": "SASL_PLAINTEXT", "username": "u"})
    assert "needs kafka.username and kafka.password" in found


def test_a_certificate_needs_its_key_and_files_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "key").touch()
    (found,) = problems(kafka={"key_file": tmp_path / "key"})
    assert found == "kafka.cert_file: a certificate goes with its key; set both or neither"
    (found,) = problems(kafka={"ca_file": tmp_path / "nowhere"})
    assert found.startswith("kafka.ca_file: Path does not point to a file")


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


@pytest.mark.parametrize("key", ["", "k" * 15])
def test_a_key_that_nothing_can_be_signed_with_stops_the_start(key: str) -> None:
    """Would have caught: a worker that starts, is healthy, and never learns."""
    with pytest.raises(BadSettings, match=r"models\.snapshot_key: shorter than 16 bytes"):
        require_servers(
            load_settings(kafka={"bootstrap": "b:1"}, redis={"url": "redis://r"}, models={"snapshot_key": key})
        )


def test_what_a_worker_lacks_is_told_with_whatever_else_is_wrong(config: Path) -> None:
    config.write_text("lateness: soon\nkafka:\n  heartbeat: 9s\nredis:\n  url: nonsense\n")
    with pytest.raises(BadSettings) as caught:
        load_worker_settings()
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "redis.url",
        "lateness",
        "kafka.bootstrap",
        "models.snapshot_key",
        "kafka.heartbeat",
    ]


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
