"""Mistakes that the fault tests must find: each takes one promise out of a worker, by patching, when it starts.

None of them is in the product; the test's worker applies one before it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiokafka.structs import TopicPartition

from models.lifecycle.learners import LearnerSet
from stream.agents import score
from stream.delivery import attempts, commit, outbox
from stream.delivery.lane import Lane
from stream.delivery.outbox import Drain
from stream.stages.batch import NOWHERE
from stream.state.keys import name_key
from stream.state.people import People

Rewrite = Callable[[Any, str, str], None]
FENCE_TTL: Final = 1_500


def change_nothing(_: Rewrite) -> None:
    """The worker as it is."""


def check_no_owner(rewrite: Rewrite) -> None:
    """Whoever is at the right place may write."""
    for script in (commit._commit, attempts._attempt):
        rewrite(script, "fence[1] ~= ARGV[1] or ", "")


def check_no_place(rewrite: Rewrite) -> None:
    """The owner may write wherever the fence stands."""
    rewrite(commit._commit, " or fence[2] ~= ARGV[2] or fence[3] ~= ARGV[3]", "")
    # An attempt at a batch is refused there as well, before anything is done.
    rewrite(attempts._attempt, " or fence[2] ~= ARGV[2]", "")


def trim_before_the_acknowledgement(_: Rewrite) -> None:
    """What is about to be sent is forgotten first."""
    deliver = Drain._deliver

    async def trim_and_deliver(self: Drain, chunk: Any) -> None:
        last = chunk[-1].position
        keys = [name_key("fence", self.tag), name_key("outbox", self.tag)]
        await outbox._trim(self.redis, keys, [self.owner, f"{last.offset}-{last.number + 1}"])
        await deliver(self, chunk)

    Drain._deliver = trim_and_deliver  # type: ignore[method-assign]


def keep_the_cache(_: Rewrite) -> None:
    """People stay in memory whatever becomes of the partition and of the batch that changed them."""
    kept: dict[str, People] = {}

    def remember(redis: Any, tag: Any, *rest: Any) -> People:
        return kept.setdefault(tag, People(redis, tag, *rest))

    People.clear = lambda self: None  # type: ignore[method-assign]
    score.People = remember  # type: ignore[assignment,misc]


def seek_by_the_committed_offset(_: Rewrite) -> None:
    """The group's offset says where to go on, the fence does not."""
    acquire, begin = Lane._acquire, Lane._open
    committed: dict[TopicPartition, int] = {}

    async def look_and_acquire(self: Lane) -> Any:
        committed[self.partition] = await self.source.consumer.committed(self.partition)
        return await acquire(self)

    async def open_there(self: Lane, session: Any, fence: Any, start: int) -> int:
        place = await begin(self, session, fence, start)
        found = committed[self.partition]
        return found if self.source.name == "events" and found is not None else place

    Lane._acquire = look_and_acquire  # type: ignore[method-assign]
    Lane._open = open_there  # type: ignore[method-assign]


def let_the_fence_expire(rewrite: Rewrite) -> None:
    """A fence that nobody moves for a while goes."""
    end = "'emitted', ARGV[8])\n"
    rewrite(commit._commit, end, end + f"redis.call('PEXPIRE', KEYS[1], {FENCE_TTL})\n")


def learn_every_copy(_: Rewrite) -> None:
    """An example that comes twice is learned twice."""
    learn = LearnerSet.learn

    def learn_again(self: LearnerSet, record: Any) -> bool:
        self.positions.pop(record.partition, None)
        return learn(self, record)

    LearnerSet.learn = learn_again  # type: ignore[method-assign]


def send_whatever_was_reached(_: Rewrite) -> None:
    """What transactions sent before is not asked for."""
    outbox._place = lambda reached, generation: NOWHERE


def send_the_newest_first(_: Rewrite) -> None:
    """What waits goes out backwards, a chunk at a time."""
    address = Drain._address
    Drain._address = lambda self, entries, now: address(self, entries, now)[::-1]  # type: ignore[method-assign]


MUTANTS: Final[dict[str, Callable[[Rewrite], None]]] = {
    "none": change_nothing,
    "owner": check_no_owner,
    "from": check_no_place,
    "trim": trim_before_the_acknowledgement,
    "cache": keep_the_cache,
    "seek": seek_by_the_committed_offset,
    "ttl": let_the_fence_expire,
    "learner": learn_every_copy,
    "order": send_the_newest_first,
    "reached": send_whatever_was_reached,
}
