"""`nudge models` against a worker that learns: what is shown, what is chosen, and what is learned again to the bit."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from models.lifecycle.snapshot import Snapshot, open_sealed, seal
from models.outcomes.learner import SPEAKERS, OutcomeLearner
from models.outcomes.scorers import open_scorer
from models.outcomes.trees_scorer import TreesScorer
from stream.broker import find_ends
from stream.cli import app
from stream.commands.connections import open_consumer
from stream.commands.topic import find_partitions
from stream.embedded import Servers
from stream.settings import ScoreRule
from stream.state.keys import name_key, tag_source
from tests.integration.workers import KEY, Job, Worker
from tests.unit.test_batch_invariance import compose_log, eager

RECORDS = 24_000
PARTS = 4
MODELS = ["click", "conversion", "recommend"]
EXAMPLES = tag_source("examples", 0)

pytestmark = pytest.mark.timeout(240)


class Live(NamedTuple):
    """A worker, and the log that it is sent part by part."""

    job: Job
    worker: Worker
    redis: Redis

    async def send(self, part: int, parts: int = 1, rate: float | None = 3_000) -> None:
        """Send some parts of the log, events a second, and wait until all that comes of it is learned and published."""
        log, end = compose_log(RECORDS, people=600), (part + parts) * RECORDS // PARTS
        await self.job.send(log[part * RECORDS // PARTS : end], rate=rate)
        await self.job.wait_until(end)
        await self.job.wait_drained()
        async with open_consumer(self.job.settings) as consumer:
            places = await find_partitions(self.job.settings, self.job.settings.topics.examples)
            (last,) = (await find_ends(consumer, places)).values()
        await wait_for(self._is_learned, last)

    async def _is_learned(self) -> int:
        return int(await self.redis.hget(name_key("fence", EXAMPLES), "next") or -1)

    async def newest(self) -> int:
        """The newest version, which is that of all models once everything is learned."""
        found = {int(version) for version in (await self.redis.hgetall(name_key("snapshots", EXAMPLES))).values()}
        assert len(found) == 1
        return found.pop()

    async def used(self, model: str) -> int:
        """The version of a model that the worker says it scores with."""
        page = await asyncio.to_thread(self.worker.metrics)
        told = re.findall(rf'^nudge_model_version\{{model="{model}"\}} (\S+)', page, re.M)
        return int(float(told[0])) if told else -1

    async def wait_used(self, model: str, version: int) -> None:
        await wait_for(lambda: self.used(model), version)

    async def published(self) -> dict[int, dict[str, bytes]]:
        """Sealed bytes by version and model, of all that is kept."""
        found: dict[int, dict[str, bytes]] = {}
        for model in MODELS:
            for version in await self.redis.zrange(name_key("snapshots", EXAMPLES, model), 0, -1):
                data = await self.redis.get(name_key("snapshot", EXAMPLES, model, version.decode()))
                found.setdefault(int(version), {})[model] = data
        return dict(sorted(found.items()))

    async def forget(self, *versions: int) -> None:
        for model in MODELS:
            await self.redis.zrem(name_key("snapshots", EXAMPLES, model), *versions)
            await self.redis.delete(*(name_key("snapshot", EXAMPLES, model, version) for version in versions))

    async def run(self, *arguments: object, key: str = KEY) -> Result:
        return await run(self.job.folder / "nudge.yaml", *arguments, key=key)

    async def tell(self, *arguments: object) -> Any:
        """What a command that succeeds answers in JSON."""
        result = await self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


async def wait_for(ask: Any, wanted: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while (found := await ask()) != wanted:
        assert time.monotonic() < deadline, (found, wanted)
        await asyncio.sleep(0.05)


async def run(config: Path, *arguments: object, key: str = KEY) -> Result:
    environment = {name: None for name in os.environ if name.startswith("NUDGE_")}
    environment |= {"NUDGE_CONFIG": str(config), "NUDGE_MODELS_SNAPSHOT_KEY": key}
    words = ["models", *map(str, arguments)]
    return await asyncio.to_thread(CliRunner().invoke, app, words, env=environment)


OPTIONS: dict[str, Any] = {"snapshot_interval": 100, "reload_interval": 50, "keep": 10_000}


@asynccontextmanager
async def start_live(servers: Servers, redis: Redis, prefix: str, folder: Path, **models: Any) -> AsyncIterator[Live]:
    """A worker that keeps every version of what it learns."""
    options = eager(
        clock="event", models=OPTIONS | models, rules=(ScoreRule(name="likely", at_least=0.02, cooldown=0),)
    )
    job = Job(servers, redis, prefix, folder, options)
    await job.create_topics()
    worker = job.start_worker()
    try:
        await worker.wait_ready()
        found = Live(job, worker, redis)
        yield found
        assert worker.errors() == []
    finally:
        job.end()


@pytest.fixture
async def live(servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Live]:
    """With the first part of the log learned."""
    async with start_live(servers, redis, topic_prefix, tmp_path) as found:
        await found.send(0)
        yield found


CONTESTANTS = [*SPEAKERS]


def opened(sealed: bytes) -> Snapshot:
    return open_sealed(sealed, KEY.encode())


async def test_what_is_there_is_shown(live: Live) -> None:
    newest, published = await live.newest(), await live.published()
    rows = (await live.tell("list"))["models"]
    assert [row["model"] for row in rows] == MODELS
    for row in rows:
        snapshot = opened(published[newest][row["model"]])
        assert (row["newest"], row["champion"]) == (newest, snapshot.champion or None)
        assert row["log_loss"] == snapshot.metrics.get("log_loss")
        assert row["calibration_ratio"] == snapshot.metrics.get("calibration_ratio")
        assert row["kept"] == sum(row["model"] in of_version for of_version in published.values())
        assert 0 <= row["age"] < 240_000
        assert (row["pinned"], row["promoted"]) == (None, None)
    table = (await live.run("list")).stdout
    assert all(re.search(rf"^ {model} +{newest} ", table, re.M) for model in MODELS), table

    version = sorted(version for version, of in published.items() if "conversion" in of)[0]
    shown = await live.tell("show", "conversion", version)
    assert (shown["version"], [*shown["metrics"]]) == (version, ["served", *CONTESTANTS])
    shown = await live.tell("show", "conversion")
    metrics = opened(published[newest]["conversion"]).metrics
    assert shown["version"] == newest
    assert shown["metrics"]["f4-fnw"]["log_loss"] == metrics["f4-fnw.log_loss"]
    assert shown["metrics"]["f4-fnw"].get("evidence") == metrics.get("f4-fnw.evidence")
    assert "regression-wait" in (await live.run("show", "conversion")).stdout

    report = await live.tell("report", "conversion")
    quality = {each["name"]: each["metrics"] for each in report["contestants"]}
    assert [*quality][: len(CONTESTANTS)] == CONTESTANTS
    assert quality["f4-wait"]["log_loss"] == metrics["f4-wait.log_loss"]
    assert quality["f4-wait"]["window_ece"] == metrics["f4-wait.window_ece"]
    assert report["champion"] in quality
    page = live.job.folder / "conversion.html"
    assert "log-loss" in (await live.run("report", "conversion", "--html", str(page))).stdout
    assert "<svg" in page.read_text()


async def test_a_past_version_is_learned_again_to_the_bit(live: Live, tmp_path: Path) -> None:
    await live.send(1)
    published = await live.published()
    versions = [version for version, of_version in published.items() if len(of_version) == len(MODELS)]
    assert len(versions) > 4
    base, *between, wanted, newest = versions[-5:]
    assert newest == await live.newest()

    # Given: it is kept no more, nor are those just before it.
    await live.forget(*between, wanted)
    await check_past(live, wanted, published[wanted], base, tmp_path)
    # Given: only one before it is kept of one model, and none at all of the others.
    await live.forget(*[version for version in versions if version != base and version <= wanted])
    for model in MODELS[1:]:
        await live.redis.zrem(name_key("snapshots", EXAMPLES, model), *[v for v in published if v <= wanted])
    found = await check_past(live, wanted, published[wanted], None, tmp_path, MODELS[1:])
    assert {row["model"]: row["from"] for row in found}["click"] == base
    # One that is kept is what it is.
    await check_past(live, newest, published[newest], newest, tmp_path)


async def test_negatives_are_sampled_while_learning_is_behind_and_that_is_learned_again_too(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    """Would have caught: a version that no one can learn again, for nobody knows which examples were passed over."""
    async with start_live(servers, redis, topic_prefix, tmp_path, sample_after=100) as live:
        await live.send(0, PARTS, rate=None)
        published = await live.published()
        newest = opened(published[await live.newest()]["click"])
        decided = newest.sampling
        assert min(decision.rate for decision in decided) < 1.0
        assert 0 < newest.metrics["passed"] < newest.metrics["examples"]
        await live.wait_used("click", newest.version)
        [told] = re.findall(r'^nudge_model_sampling_rate\{model="click"\} (\S+)', live.worker.metrics(), re.M)
        assert float(told) == decided[-1].rate

        # Given: neither it nor any before it is kept.
        *_, wanted, _ = [version for version, of_version in published.items() if len(of_version) == len(MODELS)]
        assert wanted > decided[0].version
        await live.forget(*[version for version in published if version <= wanted])
        await check_past(live, wanted, published[wanted], None, tmp_path)


async def test_entrants_are_judged_beside_the_others_and_speak_when_promoted(
    servers: Servers, redis: Redis, topic_prefix: str, tmp_path: Path
) -> None:
    entrants = ["tree-wait", "boosting-wait"]
    async with start_live(servers, redis, topic_prefix, tmp_path, entrants=entrants) as live:
        await live.send(0)
        published = await live.published()
        version = await live.newest()
        found = opened(published[version]["conversion"])
        assert found.sampling[-1].entrants == tuple(entrants)
        contestants = found.by_contestant()
        assert contestants["tree-wait"]["rows"] > 100
        assert contestants["boosting-wait"]["rows"] > 100
        await live.wait_used("conversion", version)
        page = await asyncio.to_thread(live.worker.metrics)
        for name in entrants:
            assert f'nudge_model_contestant_log_loss{{contestant="{name}",model="conversion"}}' in page

        # When: one is promoted
        assert (await live.run("promote", "conversion", "tree-wait")).exit_code == 0
        await live.send(1)
        await live.wait_used("conversion", await live.newest())
        promoted = opened((await live.published())[await live.newest()]["conversion"])
        assert promoted.champion == "tree-wait"
        assert isinstance(open_scorer(promoted.scoring), TreesScorer)

        # Learned again from the beginning, where they did not take part yet.
        await live.forget(*[each for each in published if each <= version])
        await check_past(live, version, published[version], None, tmp_path)


async def check_past(
    live: Live, version: int, published: dict[str, bytes], base: int | None, folder: Path, models: Any = MODELS
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await live.tell("at", version))["models"]
    assert sorted(row["model"] for row in rows) == MODELS
    for row in rows:
        assert row["version"] == version
        if row["model"] in models:
            assert row["from"] == base
        file = folder / f"{row['model']}.snapshot"
        result = await live.run("at", version, "--model", row["model"], "--out", file)
        assert result.exit_code == 0, result.output
        found, wanted = opened(file.read_bytes()), opened(published[row["model"]])
        assert found.scoring == wanted.scoring
        assert found.learning == wanted.learning
        assert file.read_bytes() == published[row["model"]]
    return rows


async def test_a_running_worker_follows_a_pin_back_and_forward_again(live: Live) -> None:
    newest, published = await live.newest(), await live.published()
    usable = [version for version, of in published.items() if "conversion" in of and opened(of["conversion"]).scoring]
    older = usable[0]
    assert older < newest
    await live.wait_used("conversion", newest)
    result = await live.run("pin", "conversion", older)
    assert (result.exit_code, f"pinned at version {older}" in result.stdout) == (0, True), result.output
    await live.wait_used("conversion", older)
    assert (await live.tell("list"))["models"][1]["pinned"] == older

    # What is learned meanwhile does not matter to it, nor to other models the pin.
    await live.send(1)
    assert await live.newest() > newest
    await live.wait_used("click", await live.newest())
    assert await live.used("conversion") == older

    assert (await live.run("unpin", "conversion")).exit_code == 0
    await live.wait_used("conversion", await live.newest())
    again = await live.run("unpin", "conversion")
    assert (again.exit_code, "is not pinned" in again.stderr) == (1, True)

    published = await live.published()
    usable = [version for version, of in published.items() if "conversion" in of]
    for version in (usable[-2], usable[-3]):
        assert (await live.run("rollback", "conversion")).exit_code == 0
        await live.wait_used("conversion", version)
    assert (await live.run("rollback", "conversion", older)).exit_code == 0
    await live.wait_used("conversion", older)
    nothing = await live.run("rollback", "conversion", newest + 10**6)
    assert (nothing.exit_code, "is not kept" in nothing.stderr) == (1, True)


async def test_a_promoted_contestant_speaks_and_nothing_else_is_learned(live: Live, tmp_path: Path) -> None:
    before = opened((await live.published())[await live.newest()]["conversion"])
    chosen = "regression-fnw"
    assert before.champion != chosen
    assert (await live.run("promote", "conversion", chosen)).exit_code == 0
    assert (await live.tell("list"))["models"][1]["promoted"] == chosen
    await live.send(1)
    promoted = await live.newest()
    sealed = (await live.published())[promoted]
    snapshot = opened(sealed["conversion"])
    learner = OutcomeLearner.from_bytes(snapshot.learning)
    scorer = learner.scorer(chosen)
    assert scorer is not None
    assert (snapshot.champion, snapshot.scoring) == (chosen, scorer.to_bytes())
    assert learner.champion != chosen
    assert opened(sealed["click"]).champion != chosen
    await live.wait_used("conversion", promoted)

    assert (await live.run("demote", "conversion")).exit_code == 0
    await live.send(2)
    free = opened((await live.published())[await live.newest()]["conversion"])
    assert free.champion == OutcomeLearner.from_bytes(free.learning).champion
    again = await live.run("demote", "conversion")
    assert (again.exit_code, "nobody is promoted" in again.stderr) == (1, True)

    # Who spoke then is known when it is learned again, from before the promotion.
    await live.forget(*[version for version in await live.published() if before.version < version <= promoted])
    await check_past(live, promoted, sealed, before.version, tmp_path)


async def test_a_version_goes_out_and_comes_in_as_it_was_signed(live: Live, tmp_path: Path) -> None:
    newest, published = await live.newest(), await live.published()
    file, altered, foreign = (tmp_path / name for name in ("kept", "altered", "foreign"))
    assert (await live.run("export", "conversion", file)).exit_code == 0
    sealed = published[newest]["conversion"]
    assert file.read_bytes() == sealed

    # Given: the version is not kept any more when it comes back.
    await live.send(1)
    await live.wait_used("conversion", await live.newest())
    await live.forget(newest)
    assert (await live.run("import", file)).exit_code == 0
    await live.wait_used("conversion", newest)
    assert (await live.published())[newest]["conversion"] == sealed
    # What came in is pinned, and let go of as any other.
    assert (await live.run("unpin", "conversion")).exit_code == 0
    await live.wait_used("conversion", await live.newest())

    altered.write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    foreign.write_bytes(seal(opened(sealed), b"x" * 32))
    for bad in (altered, foreign, tmp_path / "none"):
        result = await live.run("import", bad)
        assert result.exit_code == 1
        assert ("not signed" if bad.exists() else "No such file") in result.stderr
    assert (await live.tell("list"))["models"][1]["pinned"] is None
    ahead = seal(msgspec.structs.replace(opened(sealed), version=10**9), KEY.encode())
    file.write_bytes(ahead)
    assert (await live.run("import", file)).exit_code == 0
    await live.wait_used("conversion", 10**9)
    # A version that no learner here has got to holds up nobody once it is let go of.
    assert (await live.run("unpin", "conversion")).exit_code == 0
    await live.wait_used("conversion", await live.newest())


async def test_mistakes_are_told_in_words(live: Live, tmp_path: Path) -> None:
    newest = await live.newest()
    cold = min(version for version, of in (await live.published()).items() if "conversion" in of)
    assert not opened((await live.published())[cold]["conversion"]).scoring
    for arguments, said in (
        (("show", "churn"), "there is no model 'churn'; there are click, conversion, recommend"),
        (("show", "click", newest + 1), f"version {newest + 1} is not kept (kept: "),
        (("report", "recommend"), "recommend has no labels to be judged by"),
        (("pin", "churn", newest), "there is no model 'churn'"),
        (("pin", "conversion", newest + 1), "is not kept"),
        (("pin", "conversion", cold), "is cold"),
        (("unpin", "click"), "click is not pinned"),
        (("promote", "click", "oracle"), "no contestant 'oracle'; it has f4-wait, f4-fnw, regression-wait"),
        (("promote", "recommend", "f4-wait"), "recommend has no contestant 'f4-wait'; it has none"),
        (("demote", "click"), "nobody is promoted for click"),
        (("export", "click", tmp_path / "no" / "folder"), "No such file or directory"),
        (("export", "click", tmp_path / "file", "--version", newest + 1), "is not kept"),
        (("at", newest + 1), f"has not been learned yet: the newest is {newest}"),
        (("at", 10**12), "generation 1 of the examples log"),
        (("at", newest, "--model", "churn"), "there is no model 'churn'"),
    ):
        result = await live.run(*arguments)
        assert (result.exit_code, result.stdout) == (1, ""), arguments
        assert said in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
    assert (await live.run("list", key="another key of enough bytes")).exit_code == 1
    assert (await live.run("list", key="short")).exit_code == 2
    assert (await live.run("at", newest, "--out", tmp_path / "file")).exit_code == 2


async def test_a_redis_without_models_is_told_so(redis: Redis, redis_url: str, tmp_path: Path) -> None:
    config = tmp_path / "nudge.yaml"
    config.write_text(json.dumps({"redis": {"url": redis_url}}))
    result = await run(config, "list")
    assert (result.exit_code, "no model has been published" in result.stderr) == (1, True)
