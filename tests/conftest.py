"""Each process of the suite takes ports of its own range: one found free is nobody else's before it is bound."""

import os

import stream.embedded.server as server


def pytest_configure() -> None:
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    server.PORTS = range(20_000 + 1_000 * lane, 21_000 + 1_000 * lane)
