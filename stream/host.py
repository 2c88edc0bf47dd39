"""The host: the Faust app that runs the agents, and by its own consumer reads the catalogue, which can be read again.

What must not be lost does not come through it: the batch sources put their offers before the agents' channels.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterable
from typing import Any

import faust
from faust.tables.manager import TableManager
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stream.agents.items import upsert_items
from stream.agents.supervision import PersistentSupervisor
from stream.delivery.connection import describe_connection
from stream.delivery.seat import forget_name
from stream.delivery.session import Offer
from stream.metrics import Metrics
from stream.settings import Settings

log = logging.getLogger(__name__)


async def work_offers(stream: AsyncIterable[Offer]) -> None:
    """Body of the score, learn and privacy agents: each batch goes to the session that it was read for."""
    async for offer in stream:
        await offer.work()


class Host(faust.App):  # type: ignore[misc]
    """An app without tables, which needs no folder to keep them in."""

    def _create_directories(self) -> None:
        pass


class NoTables(TableManager):  # type: ignore[misc]
    """Starts at once. Faust's own waits a second for tables to be added, and no agent begins before that."""

    async def on_start(self) -> None:
        """Begin; called by Faust."""
        await self._update_channels()
        await self.recovery.start()


def build_faust(settings: Settings) -> faust.App:
    """The host. Its own consumer carries the catalogue alone, which can be read again."""
    return Host(
        f"{settings.app}-host",
        broker=f"kafka://{settings.kafka.bootstrap.replace(',', ';')}",
        broker_credentials=describe_credentials(settings),
        broker_session_timeout=settings.kafka.session_timeout / 1000,
        broker_heartbeat_interval=settings.kafka.heartbeat / 1000,
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        topic_allow_declare=False,
        TableManager=NoTables,
        web_enabled=False,
    )


def keep_place(app: faust.App, name: str) -> None:
    """Give the app's consumer a stable name in its group, before the app is finalised.

    The app begins no agent before its group has met; without a name, that waits for a killed worker's session to end.
    """
    app.conf.consumer_group_instance_id = name


def leave_place(app: faust.App) -> None:
    """Have the app's consumer leave its group when it stops; the client keeps the place of one that has a name."""
    thread = getattr(app.consumer, "_thread", None)
    consumer = getattr(thread, "_consumer", None)
    if consumer is not None:
        forget_name(consumer)


def add_catalogue(app: faust.App, topic: str, redis: Redis, metrics: Metrics) -> None:
    """The items agent: upserts in groups, so that a whole catalogue read again costs little."""

    async def items(stream: Any) -> None:
        async for events in stream.take_events(500, within=0.2):
            records = [(event.key, event.value) for event in events]
            # Faust takes an event as done when its agent raises, so this one waits for Redis instead.
            while True:
                try:
                    metrics.catalogue.add_all(await upsert_items(redis, records))
                    break
                except (RedisError, OSError) as error:
                    log.warning("catalogue waits for Redis: %s", error)
                    await asyncio.sleep(random.uniform(0.2, 0.6))

    raw = app.topic(topic, value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
    app.agent(raw, name="items", supervisor_strategy=PersistentSupervisor)(items)


def describe_credentials(settings: Settings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """Faust's form of the same credentials that every other client uses."""
    connection = describe_connection(settings)
    context = connection.get("ssl_context")
    if "sasl_mechanism" in connection:
        return faust.SASLCredentials(
            username=connection["sasl_plain_username"],
            password=connection["sasl_plain_password"],
            mechanism=connection["sasl_mechanism"],
            ssl_context=context,
        )
    return faust.SSLCredentials(context=context) if context is not None else None
