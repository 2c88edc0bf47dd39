"""What learning and scoring cost on one core: the rows of the demo's log, in the order in which a worker sends them.

A window is learned from as up to three examples: its exposure, its fulfilment and its label.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
import numpy as np

from models.outcomes.contest import Contest, Contestant
from models.outcomes.f4 import F4
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from models.outcomes.learner import OutcomeLearner
from models.outcomes.policies import FakeNegativeWeighting, Policy, Wait
from schemas.example import Example, Interaction
from stream.sample.log import SampleLog
from stream.settings import Settings
from stream.twin import AT_ONCE, Twin

EVENTS: Final = 12_000
ROUNDS: Final = 3
BATCH: Final = 500


def measure() -> dict[str, dict[str, float]]:
    """By who learns, the examples a second; by who scores, the microseconds of an event in batches of `BATCH`.

    The rounds of all are played in turn, and the best of each counts.
    """
    examples = collect_examples()
    warm = learn_all(examples)
    scorers = {name: warm.scorer(name) for name in ("f4-wait", "regression-wait")}
    rows = np.array([each.features for each in examples])
    parts = [rows[at : at + BATCH] for at in range(0, len(rows) - BATCH, BATCH)]

    def score(name: str) -> None:
        scorer = scorers[name]
        assert scorer is not None
        for part in parts:
            scorer.score(part)

    plays: dict[str, Callable[[], object]] = {
        "f4_wait": lambda: learn_alone(examples, Wait()),
        "f4_fnw": lambda: learn_alone(examples, FakeNegativeWeighting()),
        "champion_and_challengers": lambda: learn_all(examples),
        **{f"score_{name}": lambda name=name: score(name) for name in scorers},
    }
    seconds = {
        name: min(times) for name, times in zip(plays, zip(*_time(list(plays.values())), strict=True), strict=True)
    }
    figures: dict[str, dict[str, float]] = {}
    for name, spent in seconds.items():
        if name.startswith("score_"):
            figures[name] = {"microseconds_per_event": round(spent * 1e6 / (len(parts) * BATCH), 2), "batch": BATCH}
        else:
            figures[name] = {"examples_per_second": round(len(examples) / spent), "examples": len(examples)}
        figures[name]["columns"] = len(NAMES)
    return figures


def collect_examples() -> list[Example]:
    """What a worker sends of the log's first `EVENTS` events."""
    lines = (value for _, value, _ in SampleLog.load().events(EVENTS))
    decode = msgspec.json.Decoder(Example | Interaction).decode
    found: list[Example] = []
    with ThreadPoolExecutor(1) as executor:
        twin = Twin(Settings(clock="event", consent={"mode": "optional"}), executor)
        while part := list(itertools.islice(lines, AT_ONCE)):
            taken = [decode(entry.value) for entry in asyncio.run(twin.take(part)) if entry.target == "examples"]
            found += [each for each in taken if isinstance(each, Example)]
    return found


def learn_alone(examples: Sequence[Example], policy: Policy) -> None:
    """One F4 under one policy."""
    contest = Contest([Contestant("f4", F4(len(NAMES), CATEGORICAL), policy)])
    for each in examples:
        contest.take(each)


def learn_all(examples: Sequence[Example]) -> OutcomeLearner:
    """All that a worker learns of an outcome."""
    learner = OutcomeLearner(examples[0].outcome, NAMES, SCHEMA, categorical=CATEGORICAL)
    for each in examples:
        learner.learn(each)
    return learner


def _time(plays: Sequence[Callable[[], object]]) -> list[list[float]]:
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for play in plays:
            began = time.perf_counter()
            play()
            times.append(time.perf_counter() - began)
        rounds.append(times)
    return rounds
