"""What counts as a hang, and what does not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from models.sentiment.transformer import Sentiment
from stream.desk import Desk
from stream.vitals import Vitals
from stream.watchdog import Watchdog
from tests.unit.reference import WordScorer


class Stuck(WordScorer):
    """Reads on when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
        assert self.go_on.wait(10)
        return super().score_many(texts, langs)


def test_a_loop_that_stands_still_has_hung_after_the_limit() -> None:
    watchdog = Watchdog(Vitals(), None, 10.0)
    assert [watchdog.look(4.0) for _ in range(4)] == [None, None, None, "event loop"]


def test_a_loop_that_moves_now_and_then_has_not_hung() -> None:
    vitals = Vitals()
    watchdog = Watchdog(vitals, None, 10.0)
    for _ in range(10):
        assert [watchdog.look(4.0) for _ in range(2)] == [None, None]
        vitals.beat()


@pytest.mark.parametrize("cause", ["redis", "broker", "outbox"])
def test_waiting_is_no_hang(cause: str) -> None:
    vitals = Vitals()
    watchdog = Watchdog(vitals, Desk(WordScorer()), 10.0)
    vitals.pause(cause)  # type: ignore[arg-type]
    for _ in range(100):
        vitals.beat()
        assert watchdog.look(4.0) is None


def test_a_text_that_is_never_done_has_hung_while_the_loop_goes_on() -> None:
    vitals, stuck = Vitals(), Stuck()
    desk = Desk(stuck)
    watchdog = Watchdog(vitals, desk, 10.0)
    thread = threading.Thread(target=desk.score, args=(["good"], [None], 0.0))
    thread.start()
    found = []
    while not desk.working:
        pass
    for _ in range(4):
        vitals.beat()
        found.append(watchdog.look(4.0))
    stuck.go_on.set()
    thread.join()
    vitals.beat()
    assert found == [None, None, None, "sentiment thread"]
    assert watchdog.look(4.0) is None


def test_what_lets_no_thread_run_from_the_very_start_is_ended_too() -> None:
    """Would have caught: a net that the watchdog's own thread spreads, which an event at once keeps from running."""
    program = (
        "import ctypes; from stream.vitals import Vitals; from stream.watchdog import Watchdog\n"
        "Watchdog(Vitals(), None, 0.5).start()\n"
        "ctypes.PyDLL(None).sleep(60)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr


def test_a_scorer_that_raises_works_no_longer() -> None:
    class Failing(WordScorer):
        def score_many(self, texts: Sequence[str], langs: Sequence[str | None] | None = None) -> list[Sentiment]:
            raise ArithmeticError

    desk = Desk(Failing())
    with pytest.raises(ArithmeticError):
        desk.score(["good"], [None], 0.0)
    assert not desk.working
