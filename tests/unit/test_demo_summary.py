"""The demo's sums, its patience, and what it tells its worker: without servers."""

import json
from pathlib import Path

import msgspec
import pytest

from stream.demo.cast import Cast
from stream.demo.progress import Patience, Progress, Standstill
from stream.demo.runner import RATE, Options
from stream.demo.screen import print_summary
from stream.demo.setting import build_settings, choose_overrides, write_environment
from stream.demo.summary import Summary, check_balance, describe_haste
from stream.embedded import Servers
from stream.sample.broken import BROKEN, DUPLICATES
from stream.sample.log import SampleLog
from stream.settings import load_settings

SERVERS = Servers("127.0.0.1:9092", "redis://127.0.0.1:6379/0", None)
BALANCED = Summary(
    events_in=1_009,
    consents=50,
    events_scored=950,
    denied=50,
    dead_letters=7,
    duplicates=2,
    late=3,
    profiles=50,
    triggers=20,
    trigger_records=21,
    triggers_decided=20,
    triggers_by_rule={"likely-to-convert": 20},
    dead_letters_by_reason={"not_json": 3, "empty": 4},
    examples=400,
    examples_decided=400,
    matured=100,
    model_version=700,
    log_loss=0.41,
    base_log_loss=0.52,
    calibration_ratio=0.97,
    sentiment={"negative": 1, "neutral": 2, "positive": 3},
    events_per_second=2_400.0,
    latency_p50_seconds=0.01,
    latency_p99_seconds=None,
)


@pytest.fixture(scope="module")
def log() -> SampleLog:
    return SampleLog.load()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, and none of the machine's settings."""
    import os

    for name in [name for name in os.environ if name.startswith("NUDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_sums_that_hold_are_not_mentioned() -> None:
    assert check_balance(BALANCED) == []
    assert BALANCED.as_dict()["balanced"] is True


@pytest.mark.parametrize("field", ["events_scored", "denied", "dead_letters", "duplicates"])
@pytest.mark.parametrize(("off", "side"), [(-1, "1 too few"), (2, "2 too many")])
def test_an_event_that_comes_to_no_end_or_to_two_breaks_the_first_sum(field: str, off: int, side: str) -> None:
    wrong = msgspec.structs.replace(BALANCED, **{field: getattr(BALANCED, field) + off})

    problems = check_balance(wrong)

    assert problems[0].endswith(side)
    assert "1,009 acknowledged" in problems[0]
    assert wrong.as_dict()["balanced"] is False


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"events_in": 1_010}, "acknowledged"),
        ({"dead_letters_by_reason": {"not_json": 6}}, "dead letters on their topic"),
        ({"triggers": 19}, "triggers on their topic"),
        ({"triggers_decided": 21}, "triggers on their topic"),
        ({"examples": 399}, "examples learned"),
        ({"profiles": 49}, "profiles"),
    ],
)
def test_each_sum_is_named_when_it_alone_does_not_hold(changes: dict[str, object], word: str) -> None:
    problems = check_balance(msgspec.structs.replace(BALANCED, **changes))

    assert len(problems) == 1
    assert word in problems[0]


def test_a_trigger_sent_twice_is_no_imbalance() -> None:
    assert check_balance(msgspec.structs.replace(BALANCED, trigger_records=40)) == []


def test_the_summary_is_json_with_every_field() -> None:
    found = json.loads(json.dumps(BALANCED.as_dict()))

    assert found.keys() == {*Summary.__struct_fields__, "balanced"}


def test_the_table_shows_the_numbers_and_where_broken_records_went(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(BALANCED)

    shown = capsys.readouterr().out
    for said in ("1,009", "950", "not_json 3, empty 4", "likely-to-convert 20", "0.970", "10.0 ms / -", "dlq list"):
        assert said in shown, said


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_patience_ends_when_what_is_owed_does_not_move() -> None:
    clock = Clock()
    patience = Patience(60.0, clock)
    patience.check(1, "9 of 10 events")
    clock.now = 60.0
    patience.check(1, "9 of 10 events")
    clock.now = 60.1

    with pytest.raises(Standstill, match="60 s: 9 of 10 events"):
        patience.check(1, "9 of 10 events")


def test_patience_begins_anew_with_every_move() -> None:
    clock = Clock()
    patience = Patience(60.0, clock)
    for moves in range(5):
        clock.now = 50.0 * moves
        patience.check(moves, "something")


def test_a_slow_log_is_no_standstill() -> None:
    clock = Clock()
    patience = Patience(60.0, clock)
    for _ in range(5):
        clock.now += 500.0
        patience.check(1, None)


def test_events_are_accounted_for_by_their_four_ends() -> None:
    counts = {"scored": 5, "scored:conversion": 5, "denied": 3, "duplicates": 2, "dead_letters": 1, "consents": 9}

    assert Progress(counts=counts, outbox=0, learned=0).accounted == 11


def test_no_rate_is_the_default_and_zero_is_no_limit() -> None:
    def choose(rate: float | None, *, as_json: bool = False) -> Options:
        return Options.of(events=None, rate=rate, as_json=as_json, browser=True, broker="embedded")

    assert choose(None).rate == RATE
    assert choose(0).rate is None
    assert choose(7.5).rate == 7.5
    assert choose(None).browser
    assert not choose(None, as_json=True).browser


def test_it_stays_open_unless_asked_to_end() -> None:
    assert not Options().ends
    assert Options(events=5).ends
    assert Options(as_json=True).ends


def test_the_worker_reads_from_its_environment_what_the_parent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    # given settings from all three sources
    Path("nudge.yaml").write_text("clock: log\nlateness: 7m\nsentiment:\n  folder: model\n")
    monkeypatch.setenv("NUDGE_TOPICS_EVENTS", "mine")
    overrides = choose_overrides(SERVERS, 6070)
    settings = build_settings(overrides)
    assert (settings.clock, settings.lateness, settings.topics.events) == ("event", 420_000, "mine")
    # when another process, in another folder, has that environment
    environment = write_environment(overrides, settings)
    folder = Path("elsewhere").absolute()
    folder.mkdir()
    sentiment = Path("model").resolve()
    monkeypatch.chdir(folder)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # then its settings are the same, the relative path apart
    child = load_settings()
    assert child.sentiment.folder == sentiment
    assert child.model_copy(update={"sentiment": settings.sentiment}) == settings
    assert child.models.snapshot_key == settings.models.snapshot_key


def test_demo_topics_are_kept_for_ever_and_keys_are_fresh() -> None:
    first, second = (build_settings(choose_overrides(SERVERS, 0)) for _ in range(2))

    assert first.topics.retention == first.topics.retention_examples == 0
    assert first.models.snapshot_key != second.models.snapshot_key


def test_the_cast_says_how_much_it_sends(log: SampleLog) -> None:
    cast = Cast(log, 2_000)

    events = list(cast.list_events())
    consents = list(cast.list_consents())

    assert (cast.events, len(events)) == (2_000, cast.total)
    assert cast.total == 2_000 + len(BROKEN) + DUPLICATES
    assert len(consents) == cast.consents


def test_some_people_of_the_cast_have_no_consent_and_no_stranger_has(log: SampleLog) -> None:
    cast = Cast(log, 2_000)
    people = {key for key, value, _ in log.events(2_000)}

    consenting = {record.key for record in cast.list_consents()}

    assert consenting < people
    assert len(consenting) > 0.9 * len(people)


def test_more_events_than_there_are_is_all_of_them(log: SampleLog) -> None:
    assert Cast(log, 10**9).events == Cast(log, None).events == len(log)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"log_loss": None, "matured": 0}, None),
        ({"log_loss": None}, "no event was scored by a model"),
        ({"log_loss": 0.53}, "models scored worse than the base rate"),
    ],
)
def test_a_log_that_goes_by_faster_than_it_is_learned_from_is_told_of(
    changes: dict[str, float | None], said: str | None
) -> None:
    found = describe_haste(msgspec.structs.replace(BALANCED, **changes))
    assert found is None if said is None else found is not None and said in found
