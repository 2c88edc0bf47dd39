"""Apache Kafka from an unpacked distribution: one KRaft node, broker and controller in one, on loopback.

Only `bin/kafka-storage.sh` and `bin/kafka-server-start.sh` are taken from the distribution; the configuration is
written here, whole. The log lies in the given folder and survives `kill` and `restart`.
"""

from __future__ import annotations

import base64
import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from stream.embedded.errors import ServerError
from stream.embedded.guard import Guard
from stream.embedded.metadata import lists_brokers
from stream.embedded.server import HOST, Recipe, Server, free_port

_FORMAT_TIMEOUT_S = 60.0

# One node holds every internal topic. A killed broker is let in again when its old session has run out, so that is
# kept short; a group's first join waits for nobody; and a topic is there only once somebody made it as it should be.
_ONE_NODE = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
}


def start_kafka(
    home: Path, folder: Path, port: int = 0, *, options: Mapping[str, str] | None = None, guard: Guard | None = None
) -> Server:
    """Start the Apache Kafka at `home` on loopback `port` (0: a free one), its data, log and configuration in `folder`.

    `home` is an unpacked distribution, version 3.3 or later, and Java 17 is on the path or in JAVA_HOME. `options`
    are added to `server.properties`. Raises ServerError when `home` is no distribution or the storage cannot be
    formatted, ServerNotReadyError when the broker does not come up.
    """
    port = port or free_port()
    folder = folder.resolve()
    properties = _write_properties(folder, port, options or {})
    env = {**os.environ, "KAFKA_HEAP_OPTS": "-Xmx768m", "LOG_DIR": str(folder / "kafka-logs")}
    _format(home, properties, env)
    recipe = Recipe(
        name="kafka",
        command=[str(_script(home, "kafka-server-start.sh")), str(properties)],
        ready=lists_brokers,
        env=env,
        patience_s=90.0,
    )
    return Server(recipe, folder=folder, port=port, guard=guard).start()


def _write_properties(folder: Path, port: int, options: Mapping[str, str]) -> Path:
    broker, controller = f"{HOST}:{port}", f"{HOST}:{free_port()}"
    settings = {
        **_ONE_NODE,
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "controller.quorum.voters": f"1@{controller}",
        "log.dirs": str(folder / "kafka-data"),
        **options,
    }
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return properties


def _format(home: Path, properties: Path, env: Mapping[str, str]) -> None:
    """Give the empty data folder its cluster id, as KRaft demands before the first start."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [
        str(_script(home, "kafka-storage.sh")),
        "format",
        "--ignore-formatted",
        # In one word: an id may begin with a dash.
        f"--cluster-id={cluster}",
        "-c",
        str(properties),
    ]
    done = subprocess.run(
        command, cwd=properties.parent, env=dict(env), capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S
    )
    if done.returncode:
        raise ServerError(f"kafka-storage.sh could not format {properties.parent}:\n{done.stdout}{done.stderr}")


def _script(home: Path, name: str) -> Path:
    script = home / "bin" / name
    if not script.is_file():
        raise ServerError(f"{script} does not exist: KAFKA_HOME must name an unpacked Apache Kafka distribution")
    return script
