"""What README shows works as it stands: its consumer reads what nudge writes, whatever was left out of it."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

import msgspec
import pytest

from schemas.trigger import RecommendationTrigger, RecommendedItem
from stream.produce import Record, produce
from tests.integration.test_produce import Topic, topic

__all__ = ["topic"]

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.timeout(120)


def trigger(number: int, *items: str) -> Record:
    made = RecommendationTrigger(
        trigger_id=f"t{number}",
        user_id="ann",
        rule="abandoned-intent",
        event_id=f"e{number}",
        decided_at=0,
        expires_at=1,
        reason=f"reason {number}",
        channel="email",
        items=tuple(RecommendedItem(item_id=item, score=1.0, reason="often bought") for item in items),
    )
    return Record(b"ann", msgspec.json.encode(made))


def write_consumer(topic: Topic, file: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    for shown, real in (
        ("localhost:9092", topic.bootstrap),
        ("marketing.recommendations.v1", topic.name),
        ('"mailer"', f'"{topic.name}-mailer"'),
    ):
        assert shown in code
        code = code.replace(shown, real)
    file.write_text(code)


async def test_the_consumer_reads_every_trigger_and_each_once(topic: Topic, tmp_path: Path) -> None:
    """Would have caught: a consumer that ends at the first trigger without items."""
    write_consumer(topic, tmp_path / "consumer.py")
    records = [trigger(1), trigger(2, "tea", "cups"), trigger(1), trigger(3)]
    await produce(records, topic.bootstrap, topic.name)
    said, wanted = tmp_path / "said", ["ann reason 1 []", "ann reason 2 ['tea', 'cups']", "ann reason 3 []"]
    with said.open("wb") as out, (tmp_path / "log").open("wb") as log:
        consumer = await asyncio.create_subprocess_exec(
            sys.executable, "-u", tmp_path / "consumer.py", stdout=out, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while len(said.read_text().splitlines()) < len(wanted) and time.monotonic() < deadline:
            assert consumer.returncode is None, (tmp_path / "log").read_text()
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert said.read_text().splitlines() == wanted
    finally:
        consumer.kill()
        await consumer.wait()
