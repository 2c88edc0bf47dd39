"""What a broker refuses, told apart: a record that nobody will ever take, and what nudge may not do for now.

The first is parked and passed. The second is mended by an operator, at the broker or at a clock; until then the
partition waits and says why. All else that a broker answers is an outage.
"""

from __future__ import annotations

from typing import Final

from aiokafka import errors
from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedForMessageFormatError,
)

from stream.vitals import Cause


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """The broker's own check of a record failed: it has no key and its topic is compacted, say."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The record failed the validation on the broker and hence was rejected."


# The client does not know this answer, and would give it the name of one that says nothing.
errors.kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

FOR_GOOD: Final = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError)
"""Refusals of a record that sending it again does not mend."""

MISDATED: Final = (InvalidTimestampError,)
"""The record's time is too far from the broker's. What is dated when it is sent is not to blame for it: a clock is."""

FORBIDDEN: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    PolicyViolationError,
    UnsupportedForMessageFormatError,
)
"""Refusals of whatever nudge would write or read there, until somebody changes the broker's rights or its policy."""

BARRED: Final = (*FORBIDDEN, *MISDATED)
"""What waiting alone does not mend: somebody must act."""

BARRING: Final[frozenset[Cause]] = frozenset(("forbidden", "clock"))
"""The causes by which those are named."""


def name_cause(error: Exception) -> Cause:
    """What holds a partition that met an error of the way.

    >>> name_cause(TopicAuthorizationFailedError("recommendations")), name_cause(OSError())
    ('forbidden', 'redis')
    >>> name_cause(InvalidTimestampError("recommendations"))
    'clock'
    """
    if isinstance(error, FORBIDDEN):
        return "forbidden"
    if isinstance(error, MISDATED):
        return "clock"
    return "broker" if isinstance(error, errors.KafkaError) else "redis"
