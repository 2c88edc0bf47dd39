"""`make faults`: schedules one after the other, a line each, and one JSON object as the last line.

Exit status 0 if no schedule differs; with a mutant, 0 if at least one does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from stream.embedded import Guard, Server, start_kafka, start_redis, start_tansu
from tests.faults.mutants import MUTANTS
from tests.faults.plan import draw_plan
from tests.faults.schedule import Schedule
from tests.faults.verifier import Verdict


class Ground:
    """The servers that schedules run on, one after the other: a broker, and a Redis that keeps an append-only file."""

    def __init__(self, broker: str, guard: Guard) -> None:
        self.kind = broker
        self.guard = guard
        self.stack = ExitStack()
        self.kafka: Server | None = None
        if broker == "kafka":
            server = self.kafka = start_kafka(Path(os.environ["KAFKA_HOME"]), guard.make_folder(), guard=guard)
        else:
            server = start_tansu(guard.make_folder(), guard=guard)
        self.stack.callback(server.kill)
        self.bootstrap = f"127.0.0.1:{server.port}"
        self.redis = start_redis(guard.make_folder(), appendonly=True, guard=guard)
        self.stack.callback(self.redis.kill)

    async def run(self, seed: int, mutant: str = "none") -> tuple[Schedule, Verdict]:
        """Carry out the plan of `seed`; the workers' logs are kept where it failed."""
        plan = draw_plan(seed, self.kind)
        folder = self.guard.make_folder()
        schedule = Schedule(plan, folder, self.redis, self.bootstrap, self.kafka, mutant)
        try:
            verdict = await schedule.run()
            if not verdict.clean and mutant == "none":
                kept = Path(os.environ.get("FAULTS_KEEP", "/tmp")) / f"faults-{self.kind}-{mutant}-{seed}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return schedule, verdict

    def close(self) -> None:
        self.stack.close()


def run_all(broker: str, seeds: Iterable[int], mutant: str) -> int:
    """Run the seeds and print; the exit status. A mutant's run ends with the first seed that shows it."""
    total = {"differences": 0, "zombie_writes": 0, "lost": 0, "extra_triggers": 0, "kills": 0}
    failed: list[int] = []
    count, last, copies, began = 0, 0, 0, time.monotonic()
    print(
        f"{'seed':>5} {'s':>4} {'kills':>5} {'diffs':>6} {'zombie':>6} {'lost':>5} {'extra':>5} {'copies':>6}  faults"
    )
    with Guard() as guard:
        ground = Ground(broker, guard)
        try:
            for last in seeds:
                at = time.monotonic()
                schedule, verdict = asyncio.run(ground.run(last, mutant))
                kills, count, copies = schedule.count_kills(), count + 1, copies + verdict.copies
                found = (len(verdict.differences), verdict.zombies, verdict.lost, verdict.extra, kills)
                total = {name: total[name] + number for name, number in zip(total, found, strict=True)}
                print(
                    f"{last:>5} {time.monotonic() - at:>4.0f} {kills:>5} {found[0]:>6} {found[1]:>6} {found[2]:>5} "
                    f"{found[3]:>5} {verdict.copies:>6}  {' '.join(map(str, schedule.plan.faults))}",
                    *[f"[{note}]" for note in schedule.notes],
                    *([f"[{schedule.skipped} skipped]"] if schedule.skipped else []),
                    flush=True,
                )
                if not verdict.clean:
                    failed.append(last)
                    print(*(f"        {line}" for line in verdict.say()), sep="\n", flush=True)
                    if mutant != "none":
                        break
        finally:
            ground.close()
    summary = {"broker": broker, "mutant": mutant, "schedules": count, **total, "copies": copies}
    print(json.dumps(summary | {"last_seed": last, "failed_seeds": failed, "seconds": round(time.monotonic() - began)}))
    return int(bool(failed) == (mutant == "none"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="seeds 1 to so many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--mutant", choices=tuple(MUTANTS), default="none")
    parser.add_argument("--plan", action="store_true", help="print the plans and do nothing")
    chosen = parser.parse_args()
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.first, chosen.first + chosen.seeds)
    if chosen.plan:
        print(*(draw_plan(seed, chosen.broker) for seed in seeds), sep="\n")
        sys.exit(0)
    sys.exit(run_all(chosen.broker, seeds, chosen.mutant))
