"""Lua scripts: read from beside the Python that calls them, run by their hash, sent whole when Redis lost them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from stream.state.client import call

Argument = bytes | str | int | float


class Script:
    """A script in `package`, called like a function of (client, keys, arguments)."""

    def __init__(self, package: str, name: str) -> None:
        self.source = files(package).joinpath(name).read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: Sequence[str | bytes], arguments: Sequence[Argument]) -> Any:
        """Run the script. Every restart of Redis forgets scripts, so a missing one is sent along."""
        try:
            return await call(redis, "EVALSHA", self.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await call(redis, "EVAL", self.source, len(keys), *keys, *arguments)
