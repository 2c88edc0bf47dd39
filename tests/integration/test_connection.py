"""What every client of nudge hears of a connection that breaks, on the worker's own event loop."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

import stream.delivery.connection  # noqa: F401 - by which clients learn to hear it
from stream.embedded import Servers

RESET_AT_CLOSE = struct.pack("ii", 1, 0)


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)


async def test_a_request_on_a_connection_that_was_reset_a_moment_ago_ends_in_an_error_that_the_client_knows(
    servers: Servers,
) -> None:
    """Would have caught: a broker that was killed and is back, and a worker that never takes part in its group again,
    because the task that refreshes its metadata had ended on an error of the event loop's own."""
    await asyncio.to_thread(uvloop.run, be_reset(servers.kafka_bootstrap))


async def be_reset(bootstrap: str) -> None:
    """Ask a broker through a way that is cut with a reset, and again as soon as the loop knows, and nobody else."""
    ways: list[asyncio.StreamWriter] = []

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ways.append(writer)
        host, port = bootstrap.split(":")
        inner, outer = await asyncio.open_connection(host, int(port))
        ways.append(outer)
        await asyncio.gather(pass_on(reader, outer), pass_on(inner, writer), return_exceptions=True)

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lead, "127.0.0.1")
    connection = await create_conn("127.0.0.1", server.sockets[0].getsockname()[1])
    assert (await connection.send(MetadataRequest([]))).brokers
    outcome: asyncio.Future[Any] = loop.create_future()

    def ask() -> None:
        try:
            outcome.set_result(connection.send(MetadataRequest([])))
        except Exception as error:
            outcome.set_exception(error)

    lost = connection._protocol.connection_lost

    def lose(error: Exception | None) -> None:
        lost(error)
        # The loop closes the transport when this returns, and the client hears of it some steps later.
        loop.call_soon(ask)

    connection._protocol.connection_lost = lose
    ways[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    ways[0].transport.abort()
    try:
        with pytest.raises(KafkaConnectionError, match="broken"):
            await asyncio.wait_for(outcome, 5)
        assert not connection.connected()
    finally:
        server.close()
        for way in ways:
            way.transport.abort()
