"""The servers under the schedules, and one schedule on them."""

from __future__ import annotations

import os
import shutil
import traceback
from contextlib import ExitStack
from pathlib import Path

from stream.embedded import Guard, Server, start_kafka, start_redis, start_tansu
from tests.faults.plan import Plan
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

    async def run(self, plan: Plan, mutant: str = "none") -> tuple[Schedule, Verdict]:
        """Carry out a plan; the workers' logs are kept where FAULTS_KEEP names a folder and it failed."""
        folder = self.guard.make_folder()
        schedule = Schedule(plan, folder, self.redis, self.bootstrap, self.kafka, mutant)
        try:
            try:
                verdict = await schedule.run()
            except Exception as error:
                traceback.print_exc()
                verdict = Verdict([f"the schedule itself failed: {error!r}"], broken=True)
            if not verdict.clean and "FAULTS_KEEP" in os.environ:
                kept = Path(os.environ["FAULTS_KEEP"]) / f"{self.kind}-{mutant}-{plan.seed}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                if self.kafka is not None:
                    shutil.copy(self.kafka.log, kept / "broker.log")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return schedule, verdict

    def close(self) -> None:
        """Kill the servers."""
        self.stack.close()
