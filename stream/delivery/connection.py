"""How every client of nudge connects to Kafka: one place for addresses and security."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance
from aiokafka.errors import GroupLoadInProgressError, KafkaConnectionError, KafkaError, UnknownError
from aiokafka.helpers import create_ssl_context

from stream.settings import BadSettings, Settings

REQUEST_TIMEOUT = 10_000
"""Milliseconds."""
REJOIN_SECONDS = 0.1
LOADING, UNKNOWN = repr(GroupLoadInProgressError()), repr(UnknownError())
"""How the client spells errors that it did not expect of a group's leader."""


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


def _try_again(join: Callable[..., Any]) -> Callable[..., Any]:
    """Have a member join once more when its group's leader is still reading what it must know, as after a restart.

    Or when another came by its name meanwhile, for which the client has no class and says that the error is unknown;
    and then as somebody new. It takes either for an error that somebody must hear of before it goes on, and Faust's
    consumer ends with it.
    """

    @wraps(join)
    async def join_or_try_again(rebalance: Any) -> Any:
        try:
            return await join(rebalance)
        except KafkaError as error:
            if error.args not in ((LOADING,), (UNKNOWN,)):
                raise
            if error.args == (UNKNOWN,):
                rebalance._coordinator.reset_generation()
            await asyncio.sleep(REJOIN_SECONDS)
            return None

    return join_or_try_again


CoordinatorGroupRebalance.perform_group_join = _try_again(CoordinatorGroupRebalance.perform_group_join)
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
