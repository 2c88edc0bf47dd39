"""How every client of nudge connects to Kafka: one place for addresses and security."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from aiokafka.errors import GroupLoadInProgressError, KafkaConnectionError, KafkaError
from aiokafka.helpers import create_ssl_context

from stream.settings import BadSettings, Settings

REQUEST_TIMEOUT = 10_000
"""Milliseconds."""
REJOIN_SECONDS = 0.1


def _name_reset(send: Callable[..., Any]) -> Callable[..., Any]:
    """Have `send` say that a connection is broken, by the error that the client knows.

    Of a transport that was reset a moment ago uvloop says RuntimeError. The client's task that refreshes its metadata
    would end on that, without a word, and whoever waits for metadata would wait for ever: a member for its group, say.
    """

    @wraps(send)
    def send_or_break(connection: AIOKafkaConnection, *arguments: Any, **options: Any) -> Any:
        try:
            return send(connection, *arguments, **options)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {connection.host}:{connection.port} broken: {error}") from error

    return send_or_break


def _try_again(sync: Callable[..., Any]) -> Callable[..., Any]:
    """Have a member join once more when its group's leader is still reading what it must know, as after a restart.

    At the first half of a join the client does so. At the second it takes the same answer for an error that somebody
    must hear of before it goes on, and ends Faust's consumer with it.
    """

    @wraps(sync)
    async def sync_or_rejoin(rebalance: Any, request: Any) -> Any:
        try:
            return await sync(rebalance, request)
        except KafkaError as error:
            if error.args != (repr(GroupLoadInProgressError()),):
                raise
            await asyncio.sleep(REJOIN_SECONDS)
            return None

    return sync_or_rejoin


CoordinatorGroupRebalance._send_sync_group_request = _try_again(CoordinatorGroupRebalance._send_sync_group_request)
AIOKafkaConnection.send = _name_reset(AIOKafkaConnection.send)
AIOKafkaConnection._send_sasl_token = _name_reset(AIOKafkaConnection._send_sasl_token)


def describe_connection(settings: Settings) -> dict[str, Any]:
    """Arguments that aiokafka's consumer, producer and admin client have in common."""
    return {
        "bootstrap_servers": settings.kafka.bootstrap,
        "request_timeout_ms": REQUEST_TIMEOUT,
        **describe_security(settings),
    }


def describe_security(settings: Settings) -> dict[str, Any]:
    """The part of `describe_connection` that is about encryption and identity.

    Raises `BadSettings` if a file holds no certificate, or a key of another.
    """
    kafka = settings.kafka
    arguments: dict[str, Any] = {"security_protocol": kafka.security_protocol}
    if kafka.security_protocol.endswith("SSL"):
        files = {"cafile": kafka.ca_file, "certfile": kafka.cert_file, "keyfile": kafka.key_file}
        try:
            arguments["ssl_context"] = create_ssl_context(**{name: str(file) for name, file in files.items() if file})
        except OSError as error:
            raise BadSettings(f"kafka.ca_file, kafka.cert_file, kafka.key_file: not of use ({error})") from error
    if kafka.security_protocol.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": kafka.sasl_mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password.get_secret_value() if kafka.password else None,
        }
    return arguments
