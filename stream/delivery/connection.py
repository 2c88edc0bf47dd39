"""How every client of nudge connects to Kafka: one place for addresses and security."""

from __future__ import annotations

from typing import Any

from aiokafka.helpers import create_ssl_context

from stream.settings import BadSettings, Settings

REQUEST_TIMEOUT = 10_000
"""Milliseconds."""


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
