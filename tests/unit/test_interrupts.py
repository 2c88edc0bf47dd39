"""Ctrl-C is not forgotten, wherever it strikes, and is Python's own again afterwards."""

import signal
import sys
from typing import Any

import pytest

from stream.demo.interrupts import Interrupts


class Unlucky:
    """Is let go of just when Ctrl-C is pressed."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def swallowed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What finalisers raise, which Python prints and forgets."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: found.append(each.exc_type))
    return found


def test_an_interrupt_in_a_finaliser_is_raised_at_the_end(swallowed: list[Any]) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    Unlucky()
    assert swallowed == []
    with pytest.raises(KeyboardInterrupt):
        interrupts.end()
    assert signal.getsignal(signal.SIGINT) is before
    Unlucky()
    assert swallowed == [KeyboardInterrupt]


def test_python_alone_forgets_it(swallowed: list[Any]) -> None:
    Unlucky()
    assert swallowed == [KeyboardInterrupt]


def test_an_interrupt_elsewhere_is_raised_at_once() -> None:
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.end()


def test_without_one_nothing_is_raised() -> None:
    Interrupts().end()
