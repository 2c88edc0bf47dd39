"""Is the log under a fence the one that the fence knows? A judgement over facts; who asks the broker stands elsewhere.

A log loses its beginning to retention, and keeps its offsets. A topic that is made anew begins its offsets again, under
the same name: that shows by an end below the fence, or by another record where the last one applied should lie.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from stream.delivery.fence import Fence

Verdict = Literal["go_on", "look", "cut_off", "another"]
"""`look`: read the record before `next`, or find the log's end below it, and ask again. `cut_off`: the same log as far
as can be told, but it lost records that were not applied. `another`: its offsets say nothing of what was applied."""


class Judgement(NamedTuple):
    """What to do, and, where that is not to go on, what was found, in words."""

    verdict: Verdict
    why: str = ""


def judge(fence: Fence, start: int, end: int | None = None, witness: str | None = None) -> Judgement:
    """Compare `fence` with a log whose first offset is `start`.

    `end` is one past its last offset, or an offset above, where that is below the fence's `next`; `witness` the hash
    of the record that a reader sent to `next - 1` got. With either the verdict is never `look`. A log made anew whose
    beginning has reached `next` can't be told from one that lost its beginning; there every offset to come is new.
    """
    if not fence.last_hash:
        # A fence that nothing was applied under stands where its log began, and beginnings move forward alone.
        moved_back = start < fence.next
        return _distrust(f"the log begins at {start}, before {fence.next}") if moved_back else Judgement("go_on")
    if start > fence.next:
        return Judgement("cut_off", f"the log begins at {start}, after what was applied up to {fence.next}")
    if start == fence.next or witness == fence.last_hash:
        return Judgement("go_on")
    if witness is not None:
        return _distrust(f"the record at {fence.next - 1} is not the one that was applied")
    if end is not None and end < fence.next:
        return _distrust(f"the log ends before {fence.next}, up to which it was applied")
    return Judgement("look")


def _distrust(why: str) -> Judgement:
    return Judgement("another", why)
