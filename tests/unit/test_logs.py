"""Of a flood of lines the first passes, and nothing is held back uncounted."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.logs import HOLD_SECONDS, Throttle, configure_logging


class Ear(logging.Handler):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


class Case:
    """A throttled logger, and a clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.throttle = Throttle(clock=lambda: self.now)
        self.ear = Ear()
        self.logger = logging.Logger("aiokafka")
        self.logger.addFilter(self.throttle)
        self.logger.addHandler(self.ear)


@pytest.fixture
def case() -> Case:
    return Case()


def test_the_first_line_passes_at_once_and_the_next_one_tells_of_those_between(case: Case) -> None:
    for _ in range(500):
        case.logger.error("Unable connect to node with id %s: %s", 1, "refused")
    assert case.ear.heard == ["Unable connect to node with id 1: refused"]

    case.now += HOLD_SECONDS
    case.logger.error("Unable connect to node with id %s: %s", 1, "100 % refused")
    assert case.ear.heard[1:] == ["Unable connect to node with id 1: 100 % refused (and 499 like it in the last 10 s)"]

    case.now += HOLD_SECONDS
    case.logger.error("Unable connect to node with id %s: %s", 1, "refused")
    assert case.ear.heard[2:] == ["Unable connect to node with id 1: refused"]
    assert case.throttle.swallowed == 499


def test_brokers_kinds_and_levels_are_told_apart(case: Case) -> None:
    for _ in range(3):
        case.logger.error("Unable connect to node with id %s: %s", 1, "refused")
        case.logger.error("Unable connect to node with id %s: %s", 2, "refused")
        case.logger.error('Unable connect to "%s:%s": %s', "one", 9092, "refused")
        case.logger.error('Unable connect to "%s:%s": %s', "two", 9092, "refused")
        case.logger.warning("Unable to update metadata from %s", [1])
        case.logger.error("Unable to update metadata from %s", [1])
        case.logger.error("no %arguments at all")
    assert len(case.ear.heard) == 7
    assert case.throttle.swallowed == 14


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 12)), max_size=60))
def test_every_line_is_heard_or_counted(lines: list[tuple[int, float]]) -> None:
    case = Case()
    passed: dict[int, float] = {}
    for node, pause in lines:
        case.now += pause
        before = len(case.ear.heard)
        case.logger.error("Failed fetch messages from %s", node)
        heard = len(case.ear.heard) > before
        # At most one of a kind in ten seconds, and never none.
        assert heard == (node not in passed or case.now - passed[node] >= HOLD_SECONDS)
        if heard:
            passed[node] = case.now
    assert len(case.ear.heard) + case.throttle.swallowed == len(lines)


@pytest.fixture
def restored() -> Iterator[None]:
    """Puts the loggers' levels and filters back."""
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.level, one.filters[:]) for one in [logging.root, *loggers]]
    yield
    for one, level, filters in before:
        one.setLevel(level)
        one.filters[:] = filters


@pytest.mark.usefixtures("restored")
def test_every_logger_of_the_kafka_client_is_throttled_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    configure_logging("INFO")
    for name in ("aiokafka", "aiokafka.consumer.fetcher", "aiokafka.consumer.group_coordinator", "stream.delivery"):
        for _ in range(3):
            logging.getLogger(name).error("Failed fetch messages from %s", name)
    assert [record.name for record in caplog.records] == [
        "aiokafka",
        "aiokafka.consumer.fetcher",
        "aiokafka.consumer.group_coordinator",
        *["stream.delivery"] * 3,
    ]
