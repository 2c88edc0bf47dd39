"""The fence on a real Redis: two owners, lost replies, an older copy, a new topic, and a model of what must hold.

What a batch does is simple; when it may do it is not. The machine below lets two workers acquire, commit, trim and
reset in any order while replies get lost, scripts are forgotten and Redis goes back to an older copy. After every step
all of Redis must be what the accepted batches imply, and a refused one must not have changed a byte.
"""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as configured
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Lost

from models.outcomes.windows import Window
from models.person import Person
from stream.delivery import outbox
from stream.delivery.commit import commit_batch
from stream.delivery.entries import read_entry
from stream.delivery.errors import Refused
from stream.delivery.fence import Fence, acquire_fence, advance_fence, read_fence, reset_fence
from stream.delivery.lineage import Lineage
from stream.settings import Settings
from stream.stages.batch import Batch, Clock, Dossier, Entry, IdleRecord, Item, Position, Target
from stream.state.client import connect_redis
from stream.state.forms import WRITTEN
from stream.state.keys import name_key, tag_events
from stream.state.partition import clear_partition
from stream.state.people import People
from stream.state.profiles import encode_image, take_image
from stream.state.scripts import Argument
from tests.unit.factories import NOON, event
from tests.unit.reference import Record

TAG = tag_events(3)
TTL = 400 * 86_400_000
USERS = ("u1", "u2", "ünï cödé", "u 4:{p4}")
TARGETS: tuple[Target, ...] = ("recommendations", "examples", "dead_letters")

numbers = st.integers(0, 3)
contents = st.fixed_dictionaries(
    {
        "size": st.integers(0, 4),
        "profiles": st.dictionaries(st.sampled_from(USERS), st.just(0) | st.integers(0, 2**53), max_size=3),
        "keep": st.dictionaries(st.tuples(st.sampled_from(USERS), numbers), st.integers(0, 60), max_size=4),
        "close": st.sets(st.tuples(st.sampled_from(USERS), numbers), max_size=4),
        "entries": st.lists(st.tuples(st.integers(0, 3), st.sampled_from(TARGETS), st.binary(max_size=9)), max_size=4),
        "consents": st.dictionaries(st.sampled_from(USERS), st.dictionaries(st.just("marketing"), st.booleans())),
        "counts": st.dictionaries(st.sampled_from(["scored", "late"]), st.integers(1, 9)),
    }
)
Content = dict[str, Any]


def text(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@dataclass
class Model:
    """What Redis must hold, key by key, in the shapes that Redis replies with."""

    fence: dict[str, Any] | None = None
    generation: int = 0
    people: dict[str, Person] = field(default_factory=dict)
    profiles: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    windows: dict[tuple[str, str], Window] = field(default_factory=dict)
    consents: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    outbox: dict[Position, Entry] = field(default_factory=dict)
    marks: dict[bytes, bytes] = field(default_factory=dict)

    def admits(self, held: Fence) -> bool:
        return self.fence is not None and (self.fence["owner"], self.fence["next"]) == (held.owner, held.next)

    def move(self, to: Fence) -> None:
        assert self.fence is not None
        self.fence |= {"next": to.next, "clock": to.clock, "watermark": to.watermark}
        self.fence |= {"last_hash": to.last_hash, "emitted": str(to.emitted)}

    def apply(self, batch: Batch, to: Fence) -> None:
        self.move(to)
        self.outbox |= {entry.position: entry for entry in batch.entries}
        self.counts.update(batch.counts)
        for user in batch.touched:
            person = batch.people[user].person
            if person is None:
                # Nothing is left of who withdrew.
                self.people.pop(user, None)
                self.profiles.pop(user, None)
                continue
            self.people[user] = person
            flat = [text(part) for part in encode_image(take_image(person))]
            self.profiles[user] = dict(zip(flat[::2], flat[1::2], strict=True))
        for window in batch.kept.values():
            self.windows[window.user_id, window.id] = window
        for window in batch.closed.values():
            self.windows.pop((window.user_id, window.id), None)
        for user in batch.consented:
            if given := {text(name): b"%d" % value for name, value in batch.people[user].consent.items()}:
                self.consents.setdefault(user, {}).update(given)

    def keys(self) -> dict[bytes, Any]:
        """Key -> content, for all keys."""
        found: dict[str, Any] = {
            name_key("fence", TAG): {text(name): text(value) for name, value in (self.fence or {}).items()},
            name_key("counts", TAG): {text(name): text(number) for name, number in self.counts.items()},
            name_key("due", TAG): {text(f"{of.id} {user}"): of.deadline for (user, _), of in self.windows.items()},
            name_key("mark", TAG): self.marks,
            name_key("generation", TAG): text(self.generation) if self.generation else b"",
        }
        found |= {name_key("profile", TAG, user): fields for user, fields in self.profiles.items()}
        found |= {name_key("consent", TAG, user): fields for user, fields in self.consents.items()}
        for (user, name), window in self.windows.items():
            found.setdefault(name_key("pending", TAG, user), {})[text(name)] = msgspec.msgpack.encode(window)
        return {text(name): content for name, content in found.items() if content}


class Worker:
    """One that believes to own the partition, and keeps what it was told of the fence."""

    held: Fence | None = None


class Leaky(Redis):
    """A client that can lose the reply to a command which the server has carried out."""

    lose = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if self.lose:
            self.lose = False
            raise Lost("the reply was lost")
        return reply


class CommitMachine(RuleBasedStateMachine):
    """Steps of two workers and of what may befall Redis. `url` is set by the test."""

    url = ""
    workers = st.integers(0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.admin: Any = SyncRedis.from_url(self.url)
        self.admin.flushdb()
        self.redis: Any = Leaky.from_url(self.url, protocol=2)
        self.model = Model()
        self.owners = [Worker(), Worker()]
        # The oldest copy is an empty Redis: everything is lost.
        self.copies: list[tuple[Model, dict[bytes, bytes]]] = [(Model(), {})]
        self.tokens: set[str] = set()

    def teardown(self) -> None:
        self.runner.run(self.redis.aclose())
        self.runner.close()
        self.admin.close()

    # What workers do

    @initialize(first=contents, second=contents)
    def begin(self, first: Content, second: Content) -> None:
        """Each worker has had the partition once, and the first has not heard that it lost it."""
        for who, content in enumerate((first, second)):
            self.take(who, 0)
            self.try_commit(who, content, lost=False, astray=0)

    @rule(who=workers, start=st.sampled_from([0, 40]))
    def acquire(self, who: int, start: int) -> None:
        self.take(who, start)

    @rule(who=workers, start=st.sampled_from([0, 40]), generation=st.integers(0, 3), began=st.sampled_from([0, 17]))
    def acquire_as_told(self, who: int, start: int, generation: int, began: int) -> None:
        """The group's offsets remember what Redis may have lost: of two generations the later one is right."""
        self.take(who, start, Lineage(generation, began))

    def take(self, who: int, start: int, lineage: Lineage | None = None) -> None:
        fence = self.runner.run(acquire_fence(self.redis, TAG, start, lineage=lineage))
        model = self.model
        told, began = lineage or Lineage(began=start)
        if model.fence is None:
            model.fence = {"next": start, "clock": 0, "watermark": 0, "last_hash": "", "emitted": "-1-0", "epoch": 0}
            model.generation = max(model.generation, told)
            model.fence |= {"generation": model.generation, "began": began, "form": WRITTEN}
        assert fence.owner not in self.tokens
        self.tokens.add(fence.owner)
        model.fence |= {"owner": fence.owner, "epoch": model.fence["epoch"] + 1}
        found = msgspec.structs.asdict(fence) | {"emitted": str(fence.emitted)}
        assert {name: found[name] for name in model.fence} == model.fence
        assert not fence.clearing
        self.owners[who].held = fence

    @rule(who=workers, content=contents, lost=st.booleans(), astray=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def commit(self, who: int, content: Content, lost: bool, astray: int) -> None:
        self.try_commit(who, content, lost, astray)

    def try_commit(self, who: int, content: Content, lost: bool, astray: int) -> None:
        worker = self.owners[who]
        if worker.held is None:
            return
        held = msgspec.structs.replace(worker.held, next=max(worker.held.next + astray, 0))
        batch, to = self.compose(held, content)
        admitted = self.model.admits(held)
        before = self.dump()
        refusal: Refused | None = None
        silent = False
        self.redis.lose = lost
        try:
            self.runner.run(commit_batch(self.redis, TAG, batch, held, to, TTL))
        except Lost:
            silent = True
        except Refused as error:
            refusal = error
        assert silent == lost
        if admitted:
            assert refusal is None
            if self.model.outbox and batch.entries:
                assert batch.entries[0].position > max(self.model.outbox)
            self.model.apply(batch, to)
        else:
            assert self.dump() == before
        if silent:
            self.settle(worker, to, admitted)
        elif refusal is not None:
            assert refusal.lost == (self.model.fence is None or held.owner != self.model.fence["owner"])
            worker.held = None
        else:
            assert admitted
            worker.held = to

    def settle(self, worker: Worker, to: Fence, admitted: bool) -> None:
        """What a worker does that does not know whether its batch counted: look at the fence."""
        assert worker.held is not None
        fence = self.runner.run(read_fence(self.redis, TAG))
        if admitted:
            assert fence == to
        worker.held = fence if fence is not None and fence.owner == worker.held.owner else None

    def compose(self, held: Fence, content: Content) -> tuple[Batch, Fence]:
        """The batch that a worker which believes in `held` makes of `content`, and the fence after it."""
        size = content["size"] if held.next else max(content["size"], 1)
        batch = Batch(3, "events", [], Clock())
        for user in USERS:
            batch.people[user] = Dossier()
        for user, version in content["profiles"].items():
            batch.people[user].person = self.person(user, version)
            batch.touched.add(user)
            # A worker's cache says what was there, so that it may write less than all.
            if user in self.model.people and self.model.admits(held):
                batch.people[user].stored = take_image(self.model.people[user])
        for user, consent in content["consents"].items():
            batch.people[user].consent = consent
            if consent:
                batch.consented[user] = [(-1, False)]
        for (user, number), deadline in content["keep"].items():
            window = self.window(user, number, deadline)
            batch.kept[window.id] = window
        for user, number in content["close"]:
            window = self.window(user, number, 0)
            if window.id not in batch.kept:
                batch.closed[window.id] = window
        position = held.emitted
        for step, target, value in content["entries"]:
            # An idle batch, of size 0, speaks at the offset that was applied last.
            offset = max(min(max(held.next + step, held.next), held.next + size - 1), position.offset, 0)
            position = Position(offset, position.number + 1 if offset == position.offset else 1)
            batch.entries.append(Entry(position, target, value, value * 2, (("h", None), ("h", value)), NOON + step))
        batch.counts.update(content["counts"])
        to = msgspec.structs.replace(
            held,
            next=held.next + size,
            clock=held.clock + size,
            watermark=held.watermark + size,
            last_hash=f"hash {held.next + size}",
            emitted=position,
        )
        return batch, to

    @staticmethod
    def person(user: str, version: int) -> Person:
        """A profile whose fields come and go and whose state grows and shrinks with `version`."""
        seen = bytes([version % 251]) * 8 * (version % 9)
        return Person(version=version, last_event=user, revenue=float(version % 3), first_seen=NOON, seen=seen)

    @staticmethod
    def window(user: str, number: int, deadline: int) -> Window:
        identity = f"{USERS.index(user)}{number}".rjust(16, "0")
        return Window(
            id=identity, kind="outcome", name="conversion", user_id=user, event_id="e", opened_at=0, deadline=deadline
        )

    @precondition(lambda self: self.model.outbox)
    @rule(who=workers, share=st.floats(0, 1))
    def trim(self, who: int, share: float) -> None:
        """What the drain does after an acknowledgement, through the script that it calls."""
        held = self.owners[who].held
        if held is None:
            return
        last = sorted(self.model.outbox)[int(share * (len(self.model.outbox) - 1))]
        before = self.dump()
        keys = [name_key("fence", TAG), name_key("outbox", TAG)]
        keep = f"{last.offset}-{last.number + 1}"
        trimmed = self.runner.run(outbox._trim(self.redis, keys, [held.owner, keep]))
        mine = self.model.fence is not None and held.owner == self.model.fence["owner"]
        assert trimmed == int(mine)
        if mine:
            self.model.outbox = {place: entry for place, entry in self.model.outbox.items() if place > last}
        else:
            assert self.dump() == before

    @rule(who=workers, mark=st.integers(0, 5))
    def advance(self, who: int, mark: int) -> None:
        """What sources without people do: move on, with commands of their own in the same breath."""
        worker = self.owners[who]
        if worker.held is None:
            return
        to = msgspec.structs.replace(worker.held, next=worker.held.next + 1, last_hash="advanced")
        commands: list[tuple[Argument, ...]] = [
            ("HSET", name_key("mark", TAG), "m", mark),
            ("HSET", name_key("mark", TAG), f"m{mark}", "x"),
        ]
        if self.refused(worker, advance_fence(self.redis, TAG, worker.held, to, commands)):
            return
        self.model.marks |= {b"m": text(mark), text(f"m{mark}"): b"x"}
        self.model.move(to)
        worker.held = to

    @rule(who=workers, start=st.sampled_from([0, 5, 100]), another=st.booleans())
    def reset(self, who: int, start: int, another: bool) -> None:
        """The topic was made anew, or cut off."""
        worker = self.owners[who]
        if worker.held is None:
            return
        anew = msgspec.structs.replace(worker.held, next=start, last_hash="", emitted=Position(-1, 0))
        if self.refused(worker, reset_fence(self.redis, TAG, worker.held, start, another=another)):
            return
        self.model.move(anew)
        self.model.outbox.clear()
        if another:
            assert self.model.fence is not None
            self.model.generation = self.model.fence["generation"] = worker.held.generation + 1
            self.model.fence["began"] = start
            anew = msgspec.structs.replace(anew, generation=self.model.generation, began=start)
        worker.held = anew

    def refused(self, worker: Worker, call: Any) -> bool:
        assert worker.held is not None
        admitted = self.model.admits(worker.held)
        before = self.dump()
        try:
            self.runner.run(call)
        except Refused:
            assert not admitted
            assert self.dump() == before
            worker.held = None
            return True
        assert admitted
        return False

    # What befalls Redis

    @rule()
    def forget_scripts(self) -> None:
        self.admin.script_flush()

    @precondition(lambda self: self.model.outbox and len(self.copies) < 4)
    @rule()
    def take_copy(self) -> None:
        self.copies.append((copy.deepcopy(self.model), self.dump()))

    @rule()
    def lose_fence(self) -> None:
        """Of all that Redis holds, the fence alone; what the log makes again goes after it."""
        self.admin.delete(name_key("fence", TAG))
        kept = self.model
        self.model = Model(generation=kept.generation, consents=kept.consents, marks=kept.marks)
        held = self.runner.run(acquire_fence(self.redis, TAG, 0, clear=True))
        self.runner.run(clear_partition(self.redis, TAG, held))
        self.admin.delete(name_key("fence", TAG))

    @rule(which=st.integers(0, 3))
    def go_back(self, which: int) -> None:
        """A replica that lagged was promoted, or a backup restored; the workers go on believing what they believe."""
        model, dumped = self.copies[which % len(self.copies)]
        self.model = copy.deepcopy(model)
        with self.admin.pipeline() as pipe:
            pipe.flushdb()
            for name, value in dumped.items():
                pipe.restore(name, TTL if name.startswith(b"profile:") else 0, value)
            pipe.execute()

    # What a worker reads

    @rule(
        asked=st.lists(st.sampled_from(USERS), min_size=1, max_size=3),
        watermark=st.integers(0, 70),
        closings=st.integers(1, 3),
    )
    def load(self, asked: list[str], watermark: int, closings: int) -> None:
        batch = Batch(3, "events", [], Clock())
        for user in asked:
            record = Record(0, NOON, b"")
            batch.items.append(Item(record, event(user).build(), None, None, None, user, NOON, watermark))
        self.runner.run(People(self.redis, TAG, 100, closings).load(batch, watermark))

        windows = self.model.windows
        own = sum(1 for user, _ in windows if user in asked)
        ranked = sorted(windows.values(), key=lambda of: (of.deadline, of.id))
        due = [of for of in ranked if of.deadline < watermark][: closings * len(asked) + own]
        assert batch.due == due
        for user in {*asked, *(of.user_id for of in due)}:
            dossier = batch.people[user]
            assert dossier.windows == {name: of for (owner, name), of in windows.items() if owner == user}
            stored = self.model.profiles.get(user)
            assert (dossier.person is None) == (stored is None)
            if dossier.person is not None and stored is not None:
                flat = [text(part) for part in encode_image(take_image(dossier.person))]
                assert dict(zip(flat[::2], flat[1::2], strict=True)) == stored
            consent = self.model.consents.get(user, {})
            assert {text(name): b"%d" % value for name, value in dossier.consent.items()} == consent
        assert all(of is batch.people[of.user_id].windows[of.id] for of in batch.due)

    # What holds after every step

    @invariant()
    def redis_holds_what_the_accepted_batches_imply(self) -> None:
        wanted = self.model.keys()
        place = text(name_key("outbox", TAG))
        found = {name: self.read(name) for name in self.admin.keys("*") if name != place}
        assert found == wanted
        entries = self.admin.xrange(place)
        positions = [tuple(map(int, name.split(b"-"))) for name, _ in entries]
        assert positions == sorted(set(positions))
        assert [read_entry(name, fields) for name, fields in entries] == [
            self.model.outbox[position] for position in sorted(self.model.outbox)
        ]

    @invariant()
    def what_is_due_and_what_is_pending_agree(self) -> None:
        due = {name: int(score) for name, score in self.admin.zrange(name_key("due", TAG), 0, -1, withscores=True)}
        pending = {}
        for name in self.admin.keys(name_key("pending", TAG) + ":*"):
            for packed in self.admin.hvals(name):
                window = msgspec.msgpack.decode(packed, type=Window)
                pending[text(f"{window.id} {window.user_id}")] = window.deadline
        assert due == pending

    def read(self, name: bytes) -> Any:
        kind = name.split(b":")[0]
        if kind == b"due":
            return {member: int(score) for member, score in self.admin.zrange(name, 0, -1, withscores=True)}
        if kind == b"profile":
            assert TTL < self.admin.pttl(name) + 60_000 <= 2 * TTL + 60_000
        else:
            assert self.admin.pttl(name) == -1
        return self.admin.get(name) if kind == b"generation" else self.admin.hgetall(name)

    def dump(self) -> dict[bytes, bytes]:
        """Every key's value to the byte."""
        names = sorted(self.admin.keys("*"))
        with self.admin.pipeline() as pipe:
            for name in names:
                pipe.dump(name)
            return dict(zip(names, pipe.execute(), strict=True))


@pytest.mark.timeout(900)
def test_whoever_is_not_the_owner_at_that_place_writes_nothing(redis_url: str) -> None:
    machine = type("Machine", (CommitMachine,), {"url": redis_url})
    run_state_machine_as_test(
        machine,
        settings=configured(
            max_examples=80,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


async def test_windows_due_are_found_after_a_batch_of_broken_records(redis: Redis) -> None:
    # Given: windows due, and a cache that holds their person
    people = People(redis, TAG, 100, closings_per_event=1)
    fence = await acquire_fence(redis, TAG, 0)
    opened = Batch(3, "events", [], Clock())
    opened.people["u1"] = Dossier(Person(version=1))
    opened.touched.add("u1")
    for number in range(3):
        window = CommitMachine.window("u1", number, 10 + number)
        opened.kept[window.id] = opened.people["u1"].windows[window.id] = window
    to = msgspec.structs.replace(fence, next=1)
    await commit_batch(redis, TAG, opened, fence, to, TTL)
    known = Batch(3, "events", [], Clock())
    known.items.append(Item(Record(1, NOON, b""), event("u1").build(), None, None, None, "u1", NOON, 5))
    await people.load(known, 5)
    people.accept(known)

    # When: a batch in which nothing could be decoded, behind which windows are due
    await people.load(Batch(3, "events", [], Clock()), 50)

    # Then: the next event of the person finds them
    after = Batch(3, "events", [], Clock())
    after.items.append(Item(Record(2, NOON, b""), event("u1").build(), None, None, None, "u1", NOON, 50))
    await people.load(after, 50)
    assert [window.deadline for window in after.due] == [10, 11, 12]


async def test_a_profile_that_redis_swept_is_not_written_in_part(redis: Redis) -> None:
    # Given: a person in a worker's cache, whose key outlived its time in Redis
    fence = await acquire_fence(redis, TAG, 0)
    first, second = Batch(3, "events", [], Clock()), Batch(3, "events", [], Clock())
    for batch, version in ((first, 7), (second, 8)):
        batch.people["u1"] = Dossier(CommitMachine.person("u1", version))
        batch.touched.add("u1")
    second.people["u1"].stored = take_image(CommitMachine.person("u1", 7))
    to = msgspec.structs.replace(fence, next=1)
    await commit_batch(redis, TAG, first, fence, to, TTL)
    await redis.delete(name_key("profile", TAG, "u1"))

    # When: the next batch changes a part of it, if that is accepted
    with suppress(Refused):
        await commit_batch(redis, TAG, second, to, msgspec.structs.replace(to, next=2), TTL)

    # Then: there is the whole person, or none, but no torn one
    loaded = Batch(3, "events", [], Clock())
    loaded.items.append(Item(Record(2, NOON, b""), event("u1").build(), None, None, None, "u1", NOON, 0))
    await People(redis, TAG, 100, closings_per_event=1).load(loaded, 0)
    assert loaded.people["u1"].person in (None, second.people["u1"].person)


async def test_windows_due_in_a_quiet_partition_are_found(redis: Redis) -> None:
    fence = await acquire_fence(redis, TAG, 0)
    opened = Batch(3, "events", [], Clock())
    window = CommitMachine.window("u1", 0, 10)
    opened.kept[window.id] = window
    await commit_batch(redis, TAG, opened, fence, msgspec.structs.replace(fence, next=1), TTL)

    quiet = Batch(3, "events", [], Clock())
    quiet.items = [Item(IdleRecord(0, NOON), None, None, None, None, "", NOON, NOON)]
    await People(redis, TAG, 100, closings_per_event=1).load(quiet, NOON)

    assert quiet.due == [window]
    assert list(quiet.people) == ["u1"]


async def test_the_client_hides_no_failure(redis_url: str) -> None:
    async with connect_redis(Settings(redis={"url": "redis://127.0.0.1:1"})) as nowhere:
        with pytest.raises(Lost):
            await read_fence(nowhere, TAG)
    async with connect_redis(Settings(redis={"url": redis_url})) as client:
        await client.flushdb()
        assert await read_fence(client, TAG) is None
