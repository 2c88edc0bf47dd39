"""The live view on terminals of several sizes."""

import io

import msgspec
import pytest
from rich.console import Console
from rich.live import Live

from stream.metrics import ModelReport
from stream.notes import say_waiting
from stream.terminal import render
from stream.view import LiveView, NewestTrigger, PartitionView, PauseView

FULL = LiveView(
    at=1_700_000_000_000,
    started_at=1_699_999_940_000,
    events_in=3_132_961,
    events_scored=3_075_421,
    denied=50_976,
    duplicates=4_248,
    dead_letters=1_416,
    late=1_397,
    events_per_second=19_944.4,
    lag=312,
    triggers=10_598,
    busy_ratio=0.42,
    latency_p50_seconds=0.0123,
    latency_p99_seconds=0.456,
    recent_latency_p50_seconds=0.0111,
    recent_latency_p99_seconds=0.0455,
    trigger_latency_p50_seconds=0.015,
    dead_letters_by_reason={f"reason_number_{place}": 300 - place for place in range(9)},
    sentiment={"negative": 25, "neutral": 25, "positive": 50},
    sentiment_sources={"transformer": 70, "cache": 30},
    model=ModelReport(
        name="conversion", version=12_345, published_at=0, log_loss=0.3089, base_log_loss=0.4598,
        calibration_ratio=1.0312, matured=70_800, examples=1_274_400,
    ),
    triggers_by_rule={"likely-to-convert": 9_912, "abandoned-intent": 686},
    suppressed_by_reason={"cooldown": 12_744},
    newest_triggers=[
        NewestTrigger(at=1_323_433_860_000, rule="likely", user=f"or-1785{place}", text="is 72 % likely to buy")
        for place in range(10)
    ],
    partitions=[PartitionView(partition=place, mine=True, next=12_000, outbox=1, lag=2) for place in range(8)],
)  # fmt: skip
EMPTY = LiveView(
    at=1, started_at=0, events_scored=0, denied=0, duplicates=0, dead_letters=0, late=0, events_per_second=0.0, lag=0,
    triggers=0, busy_ratio=0.0,
)  # fmt: skip
URL = "http://127.0.0.1:6066/"


def draw(view: LiveView, width: int = 100, height: int = 30) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(render(view, URL), end="")
    return console.export_text()


def change(**changes: object) -> LiveView:
    return msgspec.structs.replace(FULL, **changes)


@pytest.mark.parametrize("pauses", [[], [PauseView(cause="redis", text="Redis does not answer", seconds=3.0)]])
def test_a_full_view_fits_100_by_30(pauses: list[PauseView]) -> None:
    lines = draw(change(pauses=pauses)).splitlines()

    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_a_hundred_columns_show_everything() -> None:
    text = draw(FULL)

    for said in (
        URL, "19,944", "312", "11.1 ms", "run 12.3 ms", "45.5 ms", "run 456 ms", "10,598", "1,416", "3,132,961 in",
        "3,075,421 scored", "50,976 denied", "4,248 duplicates", "1,397 late", "12,345", "0.3089", "0.4598", "1.031",
        "negative 25 %", "positive 50 %", "transformer 70", "likely-to-convert", "reason number 0", "cooldown",
        "partition", "or-17850 is 72 % likely to buy", "09 Dec 12:31", "42 % busy", "running for 60.0 s",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize(("width", "height"), [(140, 50), (89, 30), (70, 24), (56, 24), (40, 24), (24, 20)])
def test_less_room_drops_the_least_and_breaks_nothing(width: int, height: int) -> None:
    lines = draw(FULL, width, height).splitlines()

    assert max(map(len, lines)) <= width
    assert "19,944" in "\n".join(lines)
    assert "newest triggers" in "\n".join(lines)
    if width >= 40:
        assert len(lines) <= height


def test_a_pause_is_said_first() -> None:
    pauses = [PauseView(cause="redis", text="Redis does not answer", seconds=61.0)]

    assert draw(change(pauses=pauses)).startswith("paused: Redis does not answer (redis, 61.0 s)")


@pytest.mark.parametrize("width", [100, 56])
def test_notes_are_said_whole_at_every_width(width: int) -> None:
    notes = [say_waiting("conversion", 3, 200, 30, 12.5), "[red]another"]
    text = " ".join(draw(change(notes=notes), width, 40).split())

    assert all(note in text for note in notes)


def test_before_the_first_event_it_says_so() -> None:
    text = draw(EMPTY)

    for said in ("none yet", "no texts yet", "0 scored"):
        assert said in text
    assert " in, " not in text


def test_names_are_never_read_as_markup() -> None:
    odd = [NewestTrigger(at=0, rule="[red]r", user="[bold]x[/bold]", text="[link=http://a]y")]
    text = draw(change(newest_triggers=odd, triggers_by_rule={"[/]": 1}, dead_letters_by_reason={"[blink]": 1}))

    assert "[bold]x[/bold] [link=http://a]y" in text
    assert "[/]" in text


def test_a_concealed_user_is_someone() -> None:
    hidden = [msgspec.structs.replace(one, user=None) for one in FULL.newest_triggers]

    assert "someone is 72 % likely to buy" in draw(change(newest_triggers=hidden))


def test_rich_live_takes_it() -> None:
    out = io.StringIO()
    console = Console(width=100, height=30, file=out, force_terminal=True)

    with Live(render(EMPTY, URL), console=console, auto_refresh=False) as live:
        live.update(render(FULL, URL), refresh=True)

    assert "3,075,421 scored" in out.getvalue()
