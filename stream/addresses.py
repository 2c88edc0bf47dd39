"""Addresses of servers, looked at before a client is made of them.

The client's own error would name no setting, and might repeat a password.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

BROKER: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(:\d{1,5})?")


def check_brokers(text: str) -> str:
    """Return `host:port,host:port` as it is, or nothing; raises `ValueError` for anything else."""
    if text and not all(BROKER.fullmatch(part.strip()) for part in text.split(",")):
        raise ValueError("not an address of brokers; write host:port, several separated by commas")
    return text


def check_redis(text: str) -> str:
    """Return a URL of which Redis' client can make a connection, or nothing; raises `ValueError` for anything else."""
    if text:
        # Loaded only where it is needed: some commands do without.
        from redis.asyncio import ConnectionPool

        try:
            if not text.startswith(("redis://", "rediss://")):
                raise ValueError
            ConnectionPool.from_url(text).make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError):
            # The client's message may repeat the URL, and so the password.
            raise ValueError("not a Redis address; write redis://host:port/db, or rediss:// for TLS") from None
    return text


Brokers = Annotated[str, AfterValidator(check_brokers)]
RedisUrl = Annotated[str, AfterValidator(check_redis)]
