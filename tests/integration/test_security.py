"""Connections that are encrypted and named: a whole worker, to Kafka by a password or a certificate, to Redis too."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from redis.asyncio import Redis
from typer.testing import CliRunner

from stream.cli import app
from stream.embedded import Guard, Servers, free_port, start_kafka
from stream.embedded.server import Server
from tests.integration.workers import KEY, PINNED, Job, Worker
from tests.unit.reference import make_lineup
from tests.unit.test_batch_invariance import compose_log, eager

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not os.environ.get("KAFKA_HOME"), reason="the embedded broker knows neither TLS nor SASL"),
]

PASSWORD = "a secret, with a comma"
LOGIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_nudge="{PASSWORD}";'


class Secured(NamedTuple):
    """One broker with an open listener for the test and a secured one for nudge; the certificates that it takes."""

    open: str
    sasl: str
    mutual: str
    folder: Path


def write_certificates(folder: Path) -> dict[str, str]:
    """Write an authority's, a broker's and a client's certificates; returns how the broker is configured with them."""
    authority = trustme.CA()
    broker, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("nudge@example.org")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for certificate in client.cert_chain_pems:
        certificate.write_to_path(folder / "client.pem", append=True)
    client.private_key_pem.write_to_path(folder / "client.key")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    # The form in which Java reads keys.
    key = load_pem_private_key(broker.private_key_pem.bytes(), None)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(text + b"".join(certificate.bytes() for certificate in broker.cert_chain_pems))
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "server.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
    }


@pytest.fixture(scope="module")
def secured(guard: Guard) -> Iterator[Secured]:
    folder = guard.make_folder()
    plain, sasl, mutual, controller = (free_port() for _ in range(4))
    named = {"PLAINTEXT": plain, "SASL_SSL": sasl, "SSL": mutual}
    listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in named.items())
    options = {
        **write_certificates(folder),
        "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": listeners,
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": LOGIN,
        "listener.name.ssl.ssl.client.auth": "required",
    }
    with start_kafka(Path(os.environ["KAFKA_HOME"]), folder, plain, options=options, guard=guard):
        yield Secured(*(f"127.0.0.1:{port}" for port in named.values()), folder)


@pytest.fixture
async def redis_behind_tls(own_redis: Server, secured: Secured) -> AsyncIterator[str]:
    """`rediss://` address, user and password included, of a relay that ends TLS before a real Redis."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secured.folder / "server.pem")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", own_redis.port)
        await asyncio.gather(pump(reader, forth), pump(back, writer))

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Redis(port=own_redis.port))
        await client.execute_command("ACL", "SETUSER", "nudge", "on", ">hidden", "~*", "+@all")
        server = await stack.enter_async_context(await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context))
        port = server.sockets[0].getsockname()[1]
        yield f"rediss://nudge:hidden@127.0.0.1:{port}/0?ssl_ca_certs={secured.folder / 'ca.pem'}"


def name_variables(secured: Secured, protocol: str) -> dict[str, str]:
    """How a worker is told to connect."""
    variables = {"NUDGE_KAFKA_SECURITY_PROTOCOL": protocol, "NUDGE_KAFKA_CA_FILE": str(secured.folder / "ca.pem")}
    if protocol == "SSL":
        files = {"CERT": "client.pem", "KEY": "client.key"}
        files = {f"NUDGE_KAFKA_{name}_FILE": str(secured.folder / file) for name, file in files.items()}
        return variables | files | {"NUDGE_KAFKA_BOOTSTRAP": secured.mutual}
    login = {"NUDGE_KAFKA_USERNAME": "nudge", "NUDGE_KAFKA_PASSWORD": PASSWORD}
    return variables | login | {"NUDGE_KAFKA_BOOTSTRAP": secured.sasl}


@pytest.mark.parametrize("protocol", ["SASL_SSL", "SSL"])
async def test_a_worker_behind_tls_does_what_it_does_without(
    secured: Secured, own_redis: Server, redis_behind_tls: str, topic_prefix: str, tmp_path: Path, protocol: str
) -> None:
    """Would have caught: one client of many (source, producer, probe, catalogue) that connects in another way."""
    async with Redis(port=own_redis.port) as redis:
        servers = Servers(secured.open, f"redis://127.0.0.1:{own_redis.port}/0", None)
        job = Job(servers, redis, topic_prefix, tmp_path, eager(clock="event"))
        await job.create_topics()
        models = make_lineup("conversion", "click", version=PINNED)
        await job.pin(models)
        variables = name_variables(secured, protocol) | {"NUDGE_REDIS_URL": redis_behind_tls}
        worker = Worker(job.settings, tmp_path, variables=variables)
        job.workers.append(worker)
        try:
            await worker.wait_ready()
            log = compose_log(400)
            await job.send(log)
            await job.wait_until(len(log))
            await job.wait_drained()
            assert worker.stop() == 0
            assert not worker.errors()
            await job.compare(await job.refer(models))
        finally:
            job.end()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NUDGE_KAFKA_PASSWORD", "wrong", "SaslAuthenticationFailed"),
        ("NUDGE_KAFKA_CA_FILE", "stranger.pem", "SSLCertVerificationError"),
        ("NUDGE_KAFKA_CA_FILE", "nowhere.pem", "kafka.ca_file"),
    ],
)
def test_doctor_says_what_is_wrong_with_the_credentials(
    secured: Secured, redis_url: str, variable: str, value: str, said: str
) -> None:
    if variable.endswith("FILE"):
        value = str(secured.folder / value)
    variables = name_variables(secured, "SASL_SSL") | {variable: value}
    variables |= {"NUDGE_REDIS_URL": redis_url, "NUDGE_MODELS_SNAPSHOT_KEY": KEY, "COLUMNS": "200"}
    result = CliRunner().invoke(app, ["doctor"], env=variables)
    assert result.exit_code != 0
    assert said in result.output
    assert PASSWORD not in result.output
