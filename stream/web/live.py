"""The live page's feed: one view each half second to every page that is open, and the last minutes to a new one.

A view is built and encoded once per interval, however many look on. The number of pages is bounded, a page that stops
reading is let go, and all of them end when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from stream.view import LiveView, conceal_users

PAGE: Final = Path(__file__).with_name("live.html")
INTERVAL_SECONDS: Final = 0.5
HISTORY_SECONDS: Final = 600
MAX_CLIENTS: Final = 32
WRITE_SECONDS: Final = 10.0
HEADERS: Final = {
    # The page talks to its own origin alone, and nothing else may frame it or be loaded into it.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

logger = logging.getLogger(__name__)


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One second of the charts; on the wire `[at, events_per_second, log_loss, base_log_loss, calibration_ratio]`."""

    at: int
    events_per_second: float
    log_loss: float | None
    base_log_loss: float | None
    calibration_ratio: float | None


class LiveFeed:
    """Builds views from `view` and gives them to pages; user ids only with `reveal`."""

    def __init__(
        self,
        view: Callable[[], LiveView],
        *,
        reveal: bool = False,
        interval: float = INTERVAL_SECONDS,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        self._view, self._reveal, self._interval, self._max_clients = view, reveal, interval, max_clients
        self._history: deque[Point] = deque(maxlen=HISTORY_SECONDS)
        self._encoder = msgspec.json.Encoder()
        self._closing = asyncio.Event()
        self._built: tuple[float, LiveView, bytes] | None = None
        self.clients = 0

    def encode(self) -> bytes:
        """The view as JSON, at most half an interval old."""
        return self._build()[2]

    def _build(self) -> tuple[float, LiveView, bytes]:
        now = asyncio.get_running_loop().time()
        if self._built is None or now - self._built[0] > self._interval / 2:
            view = self._view() if self._reveal else conceal_users(self._view())
            self._built = now, view, self._encoder.encode(view)
        return self._built

    async def show_page(self, _: web.Request) -> web.StreamResponse:
        """`GET /`: the page itself."""
        return web.FileResponse(PAGE, headers={**HEADERS, "Content-Type": "text/html; charset=utf-8"})

    async def show_json(self, _: web.Request) -> web.Response:
        """`GET /live.json`: one view."""
        return web.Response(body=self.encode(), content_type="application/json", headers=HEADERS)

    async def show_stream(self, request: web.Request) -> web.StreamResponse:
        """`GET /live`: server-sent events, first `history`, then a view each interval; 503 when too many look on."""
        if self.clients >= self._max_clients:
            raise web.HTTPServiceUnavailable(
                text=f"{self.clients} pages are open already", headers={"Retry-After": "5"}
            )
        self.clients += 1
        try:
            response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, TimeoutError):
                await self._write_all(response)
            return response
        finally:
            self.clients -= 1

    async def _write_all(self, response: web.StreamResponse) -> None:
        frame = b"retry: 1000\nevent: history\ndata: " + self._encoder.encode(list(self._history)) + b"\n\n"
        while not self._closing.is_set():
            frame += b"data: " + self.encode() + b"\n\n"
            async with asyncio.timeout(WRITE_SECONDS):
                await response.write(frame)
            frame = b""
            await self._rest(self._interval)

    async def remember(self) -> None:
        """Run until closed: keep a point a second, so that a page opened late shows what was before."""
        while not self._closing.is_set():
            try:
                view = self._build()[1]
            except Exception:
                logger.exception("the live view could not be built; the charts miss a second")
            else:
                self._history.append(_pick_point(view))
            await self._rest(1.0)

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Keep history while the application runs: for `cleanup_ctx`."""
        task = asyncio.create_task(self.remember(), name="live history")
        yield
        self._closing.set()
        await task

    async def close(self, _: web.Application) -> None:
        """End every stream: for `on_shutdown`, which comes before the server waits for its handlers."""
        self._closing.set()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)


def _pick_point(view: LiveView) -> Point:
    if (model := view.model) is None:
        return Point(view.at, view.events_per_second, None, None, None)
    return Point(view.at, view.events_per_second, model.log_loss, model.base_log_loss, model.calibration_ratio)
