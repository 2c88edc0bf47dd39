"""Servers that nudge starts itself: a broker and a Redis for the demo and the tests when none is given.

All listen on free loopback ports. None outlives the process that started it, and no file does, not even after SIGKILL:
see `stream/embedded/guard.py`. Linux and macOS.

>>> with start_servers("embedded") as servers:
...     servers.redis_url.startswith("redis://127.0.0.1:"), servers.folder.is_dir()
(True, True)
>>> servers.folder.exists()
False
"""

from stream.embedded.docker import engine_answers
from stream.embedded.errors import ServerError, ServerNotReadyError
from stream.embedded.guard import Guard
from stream.embedded.kafka import start_kafka
from stream.embedded.pair import Broker, Servers, start_servers
from stream.embedded.redis import start_redis
from stream.embedded.server import Server, free_port
from stream.embedded.tansu import start_tansu

__all__ = [
    "Broker",
    "Guard",
    "Server",
    "ServerError",
    "ServerNotReadyError",
    "Servers",
    "engine_answers",
    "free_port",
    "start_kafka",
    "start_redis",
    "start_servers",
    "start_tansu",
]
