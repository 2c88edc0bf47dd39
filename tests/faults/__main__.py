"""`make faults`: schedules one after the other, a line each, and one JSON object as the last line.

Exit status 0 if no schedule differs; with a mutant, 0 if at least one does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable

from stream.embedded import Guard
from tests.faults.ground import Ground
from tests.faults.mutants import MUTANTS
from tests.faults.plan import draw_plan


def run_all(broker: str, seeds: Iterable[int], mutant: str, exactly_once: bool) -> int:
    """Run the seeds and print; the exit status. A mutant's run ends with the first seed that shows it."""
    total = {"differences": 0, "zombie_writes": 0, "lost": 0, "extra_triggers": 0, "kills": 0}
    failed: list[int] = []
    notes: Counter[str] = Counter()
    count, last, copies, began = 0, 0, 0, time.monotonic()
    planned = skipped = 0
    print(
        f"{'seed':>5} {'s':>4} {'kills':>5} {'diffs':>6} {'zombie':>6} {'lost':>5} {'extra':>5} {'copies':>6}  faults"
    )
    with Guard() as guard:
        ground = Ground(broker, guard)
        try:
            for last in seeds:
                at = time.monotonic()
                plan = draw_plan(last, broker, exactly_once=exactly_once)
                schedule, verdict = asyncio.run(ground.run(plan, mutant))
                kills, count, copies = schedule.count_kills(), count + 1, copies + verdict.copies
                found = (len(verdict.differences), verdict.zombies, verdict.lost, verdict.extra, kills)
                total = {name: total[name] + number for name, number in zip(total, found, strict=True)}
                planned, skipped = planned + len(plan.faults), skipped + schedule.skipped
                notes.update(schedule.notes)
                print(
                    f"{last:>5} {time.monotonic() - at:>4.0f} {kills:>5} {found[0]:>6} {found[1]:>6} {found[2]:>5} "
                    f"{found[3]:>5} {verdict.copies:>6}  {schedule.plan.describe_family()}:",
                    *map(str, schedule.plan.faults),
                    *[f"[{note}]" for note in schedule.notes],
                    *([f"[{schedule.skipped} skipped]"] if schedule.skipped else []),
                    flush=True,
                )
                if not verdict.clean:
                    # A schedule that could not be carried out shows nothing about a mutant.
                    if mutant == "none" or not verdict.broken:
                        failed.append(last)
                    print(*(f"        {line}" for line in verdict.say()), sep="\n", flush=True)
                    if mutant != "none" and failed:
                        break
        except KeyboardInterrupt:
            print("interrupted; this is what there was until then")
        finally:
            ground.close()
    summary = {"broker": broker, "mutant": mutant, "schedules": count, **total, "copies": copies}
    # What was planned and did not come about, for those who judge how much a clean run shows.
    summary |= {"faults": planned, "skipped_faults": skipped, "notes": dict(notes)}
    print(json.dumps(summary | {"last_seed": last, "failed_seeds": failed, "seconds": round(time.monotonic() - began)}))
    return int(bool(failed) == (mutant == "none"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="seeds 1 to so many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--broker", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--mutant", choices=tuple(MUTANTS), default="none")
    parser.add_argument("--exactly-once", action="store_true", help="in transactions, and a copy is a difference")
    parser.add_argument("--plan", action="store_true", help="print the plans and do nothing")
    chosen = parser.parse_args()
    if chosen.exactly_once and chosen.broker != "kafka":
        parser.error("--exactly-once needs --broker kafka: the embedded broker has no transactions")
    if chosen.broker == "kafka" and not chosen.plan and not os.environ.get("KAFKA_HOME"):
        parser.error("--broker kafka needs KAFKA_HOME, the folder of an Apache Kafka")
    # A broker that was killed is meant to be away; the client says so many times a second.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    seeds = [chosen.seed] if chosen.seed is not None else range(chosen.first, chosen.first + chosen.seeds)
    if chosen.plan:
        print(*(draw_plan(seed, chosen.broker, exactly_once=chosen.exactly_once) for seed in seeds), sep="\n")
        sys.exit(0)
    sys.exit(run_all(chosen.broker, seeds, chosen.mutant, chosen.exactly_once))
