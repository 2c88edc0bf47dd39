"""The smallest real question to a Kafka broker: who is in the cluster?

A Metadata request (version 1) without topics, over a plain socket, so that a synchronous caller can wait for a broker
without an event loop. A broker that has not finished joining its own cluster answers with none or hangs up.
"""

from __future__ import annotations

import struct

from stream.embedded.server import ask

# size, api key 3 (Metadata), version 1, correlation id, null client id, no topics
_BODY = struct.pack(">hhihi", 3, 1, 1, -1, 0)
_REQUEST = struct.pack(">i", len(_BODY)) + _BODY


def lists_brokers(port: int) -> bool:
    """True when a broker on loopback `port` answers a Metadata request with at least one broker. Raises OSError."""
    with ask(port, _REQUEST) as connection, connection.makefile("rb") as reply:
        head = reply.read(12)  # size, correlation id, number of brokers
    return len(head) == 12 and struct.unpack(">iii", head)[2] > 0
