"""The worker's HTTP side: one aiohttp application with metrics, health and the live page, and the service that runs it.

Nothing here decides anything; each answer is read off the metrics, the vitals and the view. Paths under `/v1` are for
people's data: without a token they are off, with one they want it as `Authorization: Bearer`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from stream.metrics import Metrics
from stream.view import LiveView
from stream.vitals import Vitals
from stream.web.live import LiveFeed

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SHUTDOWN_SECONDS: Final = 2.0


def build_app(
    metrics: Metrics, vitals: Vitals, view: Callable[[], LiveView], token: str | None, *, reveal: bool = False
) -> web.Application:
    """Build the application: `/`, `/live`, `/live.json`, `/metrics`, `/health/live`, `/health/ready`.

    To be called in the running event loop. Health answers 200 or 503 with `{"ok": ..., "causes": [...]}`. The page
    shows user ids only with `reveal`, which is for data that name nobody.
    """
    app = web.Application(middlewares=[guard_people(token)])
    feed = LiveFeed(view, reveal=reveal)
    app.on_shutdown.append(feed.close)
    app.cleanup_ctx.append(feed.run)

    async def show_metrics(_: web.Request) -> web.Response:
        metrics.show_pauses(vitals.pauses())
        return web.Response(body=metrics.render(), headers={"Content-Type": METRICS_TYPE})

    async def show_live(_: web.Request) -> web.Response:
        return _report(*vitals.live())

    async def show_ready(_: web.Request) -> web.Response:
        return _report(*vitals.ready())

    app.router.add_get("/", feed.show_page)
    app.router.add_get("/live", feed.show_stream, allow_head=False)
    app.router.add_get("/live.json", feed.show_json)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/health/live", show_live)
    app.router.add_get("/health/ready", show_ready)
    return app


def _report(ok: bool, causes: list[str]) -> web.Response:
    body = msgspec.json.encode({"ok": ok, "causes": causes})
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=body, status=200 if ok else 503, content_type="application/json", headers=headers)


def guard_people(token: str | None) -> Middleware:
    """Middleware for `/v1`: 404 without a token in the settings, 401 for a request without the right one."""
    wanted = f"Bearer {token}".encode() if token else None

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/v1/"):
            if wanted is None:
                raise web.HTTPNotFound(text="off: set NUDGE_HTTP_TOKEN to turn /v1 on")
            given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            if not hmac.compare_digest(given, wanted):
                raise web.HTTPUnauthorized(text="token missing or wrong", headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return guard


class WebService:
    """Serves an application on `host` and `port` (0 takes a free one) between `start` and `stop`."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._host, self._asked, self._bound = host, port, 0
        # No access log: paths may name people.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before the start."""
        return self._bound

    @property
    def url(self) -> str:
        """Address of the live page on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._bound}/"

    async def start(self) -> None:
        """Bind and serve; `OSError` when the port is taken, with what to do."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._asked).start()
        except OSError as error:
            await self._runner.cleanup()
            # A name that does not resolve has no number of the system's.
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            hint = f"can't serve on {self._host}:{self._asked} ({reason}); set NUDGE_HTTP_PORT (0 takes any)"
            raise OSError(error.errno, hint) from error
        self._bound = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """End open streams and let the port go; a second call does nothing."""
        await self._runner.cleanup()
        self._bound = 0
