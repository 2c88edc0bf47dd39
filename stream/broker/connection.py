"""How a broker is reached, and the error for when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Connection = Mapping[str, Any]
"""What every aiokafka client takes besides the address: `security_protocol`, `ssl_context`, `sasl_mechanism` ..."""

REQUEST_TIMEOUT_MS = 5_000


class BrokerError(RuntimeError):
    """A broker cannot be reached or refused what nudge needs; the message says what and what to do."""


class BrokerSilent(BrokerError):
    """A broker that was reached does not answer any more, or not about what is asked."""
