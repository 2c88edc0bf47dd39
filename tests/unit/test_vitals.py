"""When a worker counts as alive, and when as ready."""

import asyncio
import contextlib
import time

import pytest

from stream.metrics import Metrics
from stream.vitals import CAUSES, MEANINGS, Vitals, watch_loop


class Case:
    """Vitals with a clock that the test turns; the loop beats unless it is told to hang."""

    def __init__(self) -> None:
        self.now = 500.0
        self.vitals = Vitals(lambda: self.now, loop_limit=10.0, progress_limit=60.0)

    def wait(self, seconds: float, *, hang: bool = False) -> "Case":
        self.now += seconds
        if not hang:
            self.vitals.beat()
        return self

    @property
    def alive(self) -> bool:
        ok, causes = self.vitals.live()
        assert ok == (not causes)
        return ok

    @property
    def is_ready(self) -> bool:
        ok, causes = self.vitals.ready()
        assert ok == (not causes)
        return ok


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_quiet_worker_is_alive_and_ready(case: Case) -> None:
    for _ in range(100):
        case.vitals.progress(4_000, 0)
        case.wait(30)

    assert case.alive
    assert case.is_ready


def test_a_loop_that_hangs_is_not_alive(case: Case) -> None:
    case.wait(11, hang=True)

    assert not case.alive
    assert "event loop" in case.vitals.live()[1][0]
    assert case.wait(0).alive


def test_lag_without_progress_is_not_alive(case: Case) -> None:
    case.vitals.progress(4_000, 12)
    assert case.wait(59).alive
    case.vitals.progress(4_000, 900)

    assert not case.wait(2).alive
    assert case.vitals.live()[1] == ["position: has not moved for 61 s with 900 records to read (limit 60 s)"]
    assert case.is_ready


def test_lag_that_shrinks_slowly_is_alive(case: Case) -> None:
    for position in range(20):
        case.vitals.progress(position, 1_000_000)
        case.wait(50)

    assert case.alive


def test_a_position_that_goes_back_has_moved(case: Case) -> None:
    case.vitals.progress(4_000, 5)
    case.wait(50)
    case.vitals.progress(1_000, 5)

    assert case.wait(50).alive


def test_lag_after_a_quiet_hour_has_its_full_time(case: Case) -> None:
    case.vitals.progress(4_000, 0)
    case.wait(3_600)
    case.vitals.progress(4_000, 0)
    case.vitals.progress(4_000, 7)

    assert case.wait(59).alive
    assert not case.wait(2).alive


@pytest.mark.parametrize("cause", CAUSES)
def test_any_pause_fails_readiness_and_never_liveness(case: Case, cause: str) -> None:
    case.vitals.progress(4_000, 12)
    case.vitals.pause(cause)
    case.wait(10_000)

    assert case.alive
    assert case.vitals.ready() == (False, [f"{cause}: {MEANINGS[cause]}, for 10000 s"])
    case.vitals.resume(cause)
    assert case.is_ready


def test_a_hung_loop_is_not_excused_by_a_pause(case: Case) -> None:
    case.vitals.pause("redis")

    assert not case.wait(11, hang=True).alive


def test_after_a_pause_the_position_has_time_to_move(case: Case) -> None:
    case.vitals.progress(4_000, 12)
    case.vitals.pause("broker")
    case.wait(10_000)
    case.vitals.resume("broker")

    assert case.wait(59).alive
    assert not case.wait(2).alive


def test_pauses_that_come_and_go_do_not_hide_a_position_that_stands_still(case: Case) -> None:
    for _ in range(7):
        case.vitals.progress(4_000, 12)
        case.vitals.pause("outbox")
        case.wait(20)
        case.vitals.resume("outbox")
        case.wait(10)

    assert not case.alive


def test_overlapping_pauses_are_not_counted_twice(case: Case) -> None:
    case.vitals.progress(4_000, 12)
    case.vitals.pause("redis")
    case.wait(30)
    case.vitals.pause("broker")
    case.wait(30)
    case.vitals.resume("redis")
    case.wait(30)
    assert not case.is_ready
    case.vitals.resume("broker")

    assert case.wait(59).alive
    assert not case.wait(2).alive


def test_a_cause_ends_when_each_partition_was_resumed(case: Case) -> None:
    case.vitals.pause("outbox", 3)
    case.vitals.pause("outbox", 5)
    case.vitals.resume("outbox", 3)
    case.vitals.resume("outbox", 3)
    assert not case.is_ready

    case.vitals.resume("outbox", 5)
    assert case.is_ready


def test_resuming_a_cause_as_a_whole_frees_every_partition(case: Case) -> None:
    case.vitals.pause("outbox", 3)
    case.vitals.pause("outbox", 5)
    case.vitals.resume("outbox")

    assert case.is_ready


def test_a_pause_said_again_keeps_its_beginning(case: Case) -> None:
    case.vitals.pause("redis")
    case.wait(5)
    case.vitals.pause("redis")
    case.wait(5)

    assert case.vitals.pauses() == {"redis": 10.0}


def test_resuming_what_was_not_paused_changes_nothing(case: Case) -> None:
    case.vitals.progress(4_000, 12)
    case.wait(50)
    case.vitals.resume("redis")

    assert not case.wait(11).alive


async def test_the_watcher_beats_and_measures_a_blocked_loop() -> None:
    metrics, vitals = Metrics(), Vitals(loop_limit=0.25)
    watcher = asyncio.create_task(watch_loop(vitals, metrics, 0.01))
    await asyncio.sleep(0.05)
    vitals.pause("redis")

    time.sleep(0.3)  # noqa: ASYNC251 - the blocked loop is what is measured
    assert not vitals.live()[0]
    await asyncio.sleep(0.05)

    assert vitals.live()[0]
    lag = metrics.loop_lag.of()
    assert lag.max > 0.25
    assert lag.quantile(0.5) < 0.1
    assert metrics.paused.read()[("redis",)] == 1
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher


async def test_the_watcher_tells_a_busy_thread_from_an_idle_one() -> None:
    metrics = Metrics()
    watcher = asyncio.create_task(watch_loop(Vitals(), metrics, 0.01))
    await asyncio.sleep(1.1)
    idle = metrics.busy.read()[()]

    end = time.thread_time() + 0.6
    while time.thread_time() < end:  # noqa: ASYNC110 - burning is the purpose
        await asyncio.sleep(0)
    # Whatever else this machine does, the second that holds the work is busier than the one before.
    await asyncio.sleep(0.5)

    assert metrics.busy.read()[()] > idle
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher
