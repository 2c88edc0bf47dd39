"""Whether a log is the one that the fence knows, judged over every way in which it may have changed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.delivery.continuity import Verdict, judge
from stream.delivery.fence import Fence, hash_record
from stream.stages.batch import NOWHERE
from tests.unit.reference import Record


def fence_at(following: int, last_hash: str) -> Fence:
    return Fence(owner="me", epoch=1, next=following, clock=0, watermark=0, last_hash=last_hash, emitted=NOWHERE)


@dataclass
class Log:
    """Records of one topic's life, `start` to `end`; `life` makes them others than those of another life."""

    life: str
    start: int
    end: int

    def hash_at(self, offset: int) -> str:
        return hash_record(Record(offset, 0, f"{self.life}{offset}".encode()))

    def look(self, offset: int) -> tuple[int | None, str | None]:
        """End and witness as a reader sent to `offset` finds them."""
        return (None, self.hash_at(offset)) if self.start <= offset < self.end else (self.end, None)


def decide(fence: Fence, log: Log) -> Verdict:
    """The judgement, after a look at the log where one is asked for."""
    verdict = judge(fence, log.start).verdict
    if verdict == "look":
        verdict = judge(fence, log.start, *log.look(fence.next - 1)).verdict
    assert verdict != "look"
    return verdict


@pytest.mark.parametrize(
    ("following", "last_hash", "start", "end", "witness", "verdict"),
    [
        # Nothing was applied yet.
        (0, "", 0, None, None, "go_on"),
        (0, "", 40, None, None, "go_on"),
        (40, "", 40, None, None, "go_on"),
        (40, "", 0, None, None, "another"),
        # The last record applied may be there.
        (10, "h", 0, None, None, "look"),
        (10, "h", 9, None, None, "look"),
        (10, "h", 0, None, "h", "go_on"),
        (10, "h", 0, None, "x", "another"),
        (10, "h", 0, 9, None, "another"),
        (10, "h", 0, 0, None, "another"),
        # It has expired, and nothing else has, or more has.
        (10, "h", 10, None, None, "go_on"),
        (10, "h", 11, None, None, "cut_off"),
    ],
)
def test_each_state_of_a_log_has_its_verdict(
    following: int, last_hash: str, start: int, end: int | None, witness: str | None, verdict: Verdict
) -> None:
    found = judge(fence_at(following, last_hash), start, end, witness)
    assert found.verdict == verdict
    assert bool(found.why) == (verdict in ("cut_off", "another"))


numbers = st.integers(0, 30)


@given(numbers, numbers, numbers, numbers)
def test_the_log_that_was_applied_is_never_taken_for_another(start: int, applied: int, more: int, lost: int) -> None:
    log = Log("a", start, start + applied)
    fence = fence_at(log.end, log.hash_at(log.end - 1) if applied else "")

    # When: more was written, and the beginning was lost
    log.end += more
    log.start = min(log.start + lost, log.end)

    lost_unread = bool(applied) and log.start > fence.next
    assert decide(fence, log) == ("cut_off" if lost_unread else "go_on")


@given(numbers, st.integers(1, 30), numbers, numbers)
def test_another_log_is_gone_on_with_only_where_all_its_offsets_are_new(
    start: int, applied: int, begins: int, length: int
) -> None:
    old, new = Log("a", start, start + applied), Log("b", begins, begins + length)
    fence = fence_at(old.end, old.hash_at(old.end - 1))
    verdict = decide(fence, new)
    if begins < fence.next:
        assert verdict == "another"
    else:
        assert verdict == ("go_on" if begins == fence.next else "cut_off")


@given(numbers, st.integers(1, 30), st.integers(1, 30))
def test_a_log_that_lost_its_end_is_another(start: int, applied: int, lost: int) -> None:
    log = Log("a", start, start + applied)
    fence = fence_at(log.end, log.hash_at(log.end - 1))
    log.end = max(log.end - lost, log.start)
    assert decide(fence, log) == "another"
