"""The worker's pages over a real socket."""

import asyncio
import re
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import ClientSession, ClientTimeout, web
from prometheus_client.parser import text_string_to_metric_families

from schemas.trigger import RecommendationTrigger
from stream.metrics import Metrics, ModelReport
from stream.view import LiveView, build_view
from stream.vitals import Vitals
from stream.web.live import MAX_CLIENTS, PAGE, Point
from stream.web.server import WebService, build_app

USER = "or-17850"
TRIGGER = RecommendationTrigger(
    trigger_id="t", user_id=USER, rule="likely-to-convert", event_id="e", decided_at=1, expires_at=2, reason="r",
    scores={"conversion": 0.7},
)  # fmt: skip


class Worker:
    """A web service over real metrics and vitals."""

    def __init__(self, *, reveal: bool = False, token: str | None = None) -> None:
        self.metrics, self.vitals, self.built, self.broken = Metrics(), Vitals(), 0, False
        self.app = build_app(self.metrics, self.vitals, self.view, token, reveal=reveal)
        self.app.router.add_get("/v1/ping", self.ping)
        self.service = WebService(self.app, "127.0.0.1", 0)

    def view(self) -> LiveView:
        self.built += 1
        if self.broken:
            raise RuntimeError("no view")
        at = int(time.time() * 1000)
        return build_view(self.metrics, self.vitals, at=at, started_at=at, window_days=30, triggers=[TRIGGER])

    async def ping(self, _: web.Request) -> web.Response:
        return web.Response(text="pong")


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    made = Worker()
    await made.service.start()
    yield made
    await made.service.stop()


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession(timeout=ClientTimeout(total=20)) as made:
        yield made


async def read_events(stream, count: int) -> list[tuple[str, bytes]]:
    """The next `count` server-sent events as (name, data)."""
    events: list[tuple[str, bytes]] = []
    name, data = "message", b""
    async for line in stream:
        field, _, rest = line.rstrip(b"\n").partition(b": ")
        if field == b"event":
            name = rest.decode()
        elif field == b"data":
            data = rest
        elif not line.strip() and data:
            events.append((name, data))
            name, data = "message", b""
            if len(events) == count:
                break
    return events


async def test_metrics_are_served_in_prometheus_format(worker: Worker, session: ClientSession) -> None:
    worker.metrics.count_events({("view", "scored"): 3})
    worker.vitals.pause("broker")

    async with session.get(f"{worker.service.url}metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}

    assert answer.content_type == "text/plain"
    assert "version=0.0.4" in answer.headers["Content-Type"]
    assert sum(s.value for s in families["nudge_events"].samples) == 3
    assert [s.labels["cause"] for s in families["nudge_paused"].samples if s.value] == ["broker"]


async def test_health_tells_a_pause_from_a_standstill(worker: Worker, session: ClientSession) -> None:
    url = worker.service.url
    async with session.get(f"{url}health/live") as live, session.get(f"{url}health/ready") as ready:
        assert (live.status, ready.status) == (200, 200)
        assert await ready.json() == {"ok": True, "causes": []}

    worker.vitals.pause("redis")

    async with session.get(f"{url}health/live") as live, session.get(f"{url}health/ready") as ready:
        assert (live.status, ready.status) == (200, 503)
        assert (await ready.json())["causes"][0].startswith("redis: ")


async def test_a_standstill_fails_liveness(session: ClientSession) -> None:
    worker = Worker()
    worker.vitals._progress_limit = 0.05
    await worker.service.start()
    worker.vitals.progress(10, 5)
    await asyncio.sleep(0.1)

    async with session.get(f"{worker.service.url}health/live") as live:
        assert live.status == 503
        assert "position" in (await live.json())["causes"][0]
    await worker.service.stop()


async def test_the_page_is_one_file_that_needs_nothing_from_elsewhere(worker: Worker, session: ClientSession) -> None:
    async with session.get(worker.service.url) as answer:
        page = await answer.text()

    assert answer.content_type == "text/html"
    assert page == PAGE.read_text()
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"/\*.*?\*/|// .*", "", page))
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", page)
    assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]


async def test_the_stream_gives_history_first_and_then_a_view_each_half_second(
    worker: Worker, session: ClientSession
) -> None:
    report = ModelReport(name="conversion", version=1, published_at=0, log_loss=0.5, calibration_ratio=0.9)
    worker.metrics.set_model(report)
    await asyncio.sleep(1.2)

    begin = time.monotonic()
    async with session.get(f"{worker.service.url}live") as answer:
        assert answer.content_type == "text/event-stream"
        events = await read_events(answer.content, 4)
        worker.metrics.count_events({("view", "scored"): 5})
        later = await read_events(answer.content, 2)

    assert [name for name, _ in events] == ["history", "message", "message", "message"]
    points = msgspec.json.decode(events[0][1], type=list[Point])
    assert points
    assert (points[-1].log_loss, points[-1].calibration_ratio) == (0.5, 0.9)
    assert msgspec.json.decode(events[1][1], type=LiveView).events_scored == 0
    assert msgspec.json.decode(later[-1][1], type=LiveView).events_scored == 5
    assert time.monotonic() - begin >= 4 * 0.5


@pytest.mark.parametrize("path", ["live.json", "live"])
async def test_user_ids_are_shown_only_where_revealed(session: ClientSession, path: str) -> None:
    seen = {}
    for reveal in (False, True):
        worker = Worker(reveal=reveal)
        await worker.service.start()
        async with session.get(f"{worker.service.url}{path}") as answer:
            seen[reveal] = USER.encode() in (
                await answer.read() if path == "live.json" else (await read_events(answer.content, 2))[1][1]
            )
        await worker.service.stop()

    assert seen == {False: False, True: True}


async def test_many_pages_cost_one_view_and_too_many_are_turned_away(worker: Worker, session: ClientSession) -> None:
    url = f"{worker.service.url}live"
    open_pages = [await session.get(url) for _ in range(MAX_CLIENTS)]
    before, begin = worker.built, time.monotonic()
    for page in open_pages:
        assert len(await read_events(page.content, 4)) == 4

    # Each interval builds at most twice (the pages are not in step), not once for each page.
    assert worker.built - before <= 2 * (time.monotonic() - begin) / 0.25 + 4

    async with session.get(url) as turned_away:
        assert turned_away.status == 503
    for page in open_pages:
        page.close()
    for _ in range(100):
        await asyncio.sleep(0.1)
        async with session.get(url) as let_in:
            if let_in.status == 200:
                return
    pytest.fail("pages that were closed still count")


async def test_stopping_ends_open_streams_at_once_and_frees_the_port(session: ClientSession) -> None:
    worker = Worker()
    await worker.service.start()
    port = worker.service.port
    async with session.get(f"{worker.service.url}live") as answer:
        await read_events(answer.content, 2)
        begin = time.monotonic()
        await worker.service.stop()
        await answer.content.read()

    assert time.monotonic() - begin < 1.5
    again = WebService(web.Application(), "127.0.0.1", port)
    await again.start()
    assert again.port == port
    await again.stop()
    await again.stop()


async def test_a_taken_port_says_what_to_do(worker: Worker) -> None:
    second = WebService(web.Application(), "127.0.0.1", worker.service.port)

    with pytest.raises(OSError, match="NUDGE_HTTP_PORT"):
        await second.start()


async def test_a_view_that_fails_once_does_not_end_the_charts(
    worker: Worker, session: ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    worker.broken = True
    await asyncio.sleep(1.3)
    worker.broken = False
    await asyncio.sleep(1.3)

    async with session.get(f"{worker.service.url}live") as answer:
        history = (await read_events(answer.content, 1))[0][1]
    assert len(msgspec.json.decode(history)) >= 2
    assert "the charts miss a second" in caplog.text
    assert USER not in caplog.text


@pytest.mark.parametrize(
    ("token", "given", "status"),
    [
        (None, None, 404),
        (None, "Bearer ", 404),
        ("s3cret", None, 401),
        ("s3cret", "Bearer wrong", 401),
        ("s3cret", "Bearer é", 401),
        ("s3cret", "Bearer s3cret", 200),
    ],
)
async def test_people_are_behind_the_token(
    session: ClientSession, token: str | None, given: str | None, status: int
) -> None:
    worker = Worker(token=token)
    await worker.service.start()
    headers = {} if given is None else {"Authorization": given}

    async with session.get(f"{worker.service.url}v1/ping", headers=headers) as answer:
        assert answer.status == status
    async with session.get(f"{worker.service.url}metrics") as answer:
        assert answer.status == 200
    await worker.service.stop()
