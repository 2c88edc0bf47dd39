"""What can go wrong between a record and its commit."""

from __future__ import annotations


class DeliveryError(Exception):
    """Base of the errors of this package."""


class Refused(DeliveryError):
    """The fence said no: another owner, or another place than was believed. Nothing was written."""

    def __init__(self, owner: str, at: int, owner_now: str | None, next_now: int | None, why: str = "") -> None:
        held = f"held by {(owner_now or 'nobody')[:8]} at {next_now}, believed {owner[:8]} at {at}"
        super().__init__(f"fence refused: {why or held}")
        self.lost = owner != owner_now
        """Whether the partition is somebody else's now."""


class NotMember(DeliveryError):
    """The group's coordinator does not know this worker as a member any more."""


class LogMismatch(DeliveryError):
    """The log is not the one that the fence knows: the topic was made anew, or cut off below the fence."""


class StateLost(DeliveryError):
    """What the fence says was made of the log is not there any more: it must be made again from the log's start."""


class BreakerOpen(DeliveryError):
    """Too many events crash for any of them to be to blame; the partition waits `wait` seconds."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class PartitionsChanged(DeliveryError):
    """The events topic has another number of partitions than the state in Redis was written with."""


class RefusedForGood(DeliveryError):
    """The broker refuses a record among those sent, and sending again does not mend it; none of them was sent."""


class OutOfStep(DeliveryError):
    """Somebody else has moved the position from which a partition is read, so that records may be missing."""
