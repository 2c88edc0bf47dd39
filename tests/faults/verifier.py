"""Compares what workers left behind, in Redis and in the output topics, with the single-threaded reference.

Everything is compared to the byte, and every difference is kept, in words without anything personal beyond the made-up
users of a plan. Who wrote what under whose fence is read from the audit list that the test's workers keep.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import asdict, replace
from redis.asyncio import Redis

from models.lifecycle.learners import LearnerSet
from models.lifecycle.snapshot import open_sealed
from models.outcomes.features import CATEGORICAL, NAMES, SCHEMA
from models.outcomes.scorers import Scorer, open_scorer
from models.outcomes.windows import Window
from models.person import COMMUTING
from schemas.example import Example, Interaction
from schemas.profile import Profile
from schemas.reasons import SOURCE_HEADER
from stream.settings import AbandonedRule, Settings
from stream.state.keys import name_key, tag_events, tag_source
from stream.state.profiles import decode_person
from tests.faults.oracle import Oracle
from tests.faults.plan import ALL
from tests.integration.test_live_learning import check_examples, check_profiles, check_triggers
from tests.integration.workers import Job, describe_state, list_firsts
from tests.unit.reference import Reference

SHOWN = 12


@dataclass
class Verdict:
    """What was found: `differences` in words; in `lost`, records that nobody applied and entries that nobody sent;
    in `extra`, trigger ids that nobody decided; in `disordered`, people whose triggers did not come in order, copies
    aside; in `zombies`, writes under another's fence or over what was done.
    """

    differences: list[str] = field(default_factory=list)
    lost: int = 0
    extra: int = 0
    disordered: int = 0
    zombies: int = 0
    copies: int = 0
    """Entries sent more than once, which at least once allows."""
    broken: bool = False
    """Whether the schedule itself failed, so that nothing was compared."""

    @property
    def clean(self) -> bool:
        return not (self.differences or self.lost or self.extra or self.disordered or self.zombies)

    def expect(self, what: str, found: Any, wanted: Any) -> None:
        """Note a difference unless both are equal."""
        if found != wanted:
            self.differences.append(f"{what}: found {_cut(found)}, wanted {_cut(wanted)}")

    def expect_fields(self, what: str, found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
        """Note each field in which two mappings differ."""
        for name in sorted(found.keys() | wanted.keys(), key=repr):
            self.expect(f"{what} {name!r}", found.get(name), wanted.get(name))

    def say(self) -> list[str]:
        """The first few differences."""
        more = len(self.differences) - SHOWN
        return self.differences[:SHOWN] + ([f"and {more} more"] if more > 0 else [])


Output = Mapping[str, Sequence[Any]]
"""Records of the topics `recommendations`, `examples` and `dead_letters`, each partition in order."""


async def verify(redis: Redis, references: Sequence[Reference], output: Output, key: bytes) -> Verdict:
    """Compare all there is; `key` opens the learners' snapshots."""
    verdict = Verdict()
    for reference in references:
        await verify_state(verdict, redis, reference)
        await verify_readable(verdict, redis, reference)
        audit = await redis.lrange(name_key("audit", tag_events(reference.partition)), 0, -1)  # type: ignore[arg-type]
        verify_audit(verdict, reference.partition, [line.decode() for line in audit])
    verify_output(verdict, [entry for reference in references for entry in reference.entries], output)
    await verify_learning(verdict, redis, output["examples"], key)
    return verdict


Hashes = dict[str, dict[bytes, bytes]]


async def verify_state(
    verdict: Verdict, redis: Redis, reference: Reference, look: Callable[[Hashes], Mapping[str, Any]] = dict
) -> None:
    """Profiles, pending windows, consent, counts, deadlines, outbox and fence of one partition.

    `look` says what of the hashes is compared.
    """
    tag = tag_events(reference.partition)
    wanted = look(describe_state(reference))
    found = look(await read_hashes(redis, tag))
    for name in sorted(found.keys() | wanted.keys()):
        verdict.expect_fields(name, found.get(name, {}), wanted.get(name, {}))
    due = dict(await redis.zrange(name_key("due", tag), 0, -1, withscores=True))
    deadlines = {f"{w.id} {w.user_id}".encode(): float(w.deadline) for w in reference.windows().values()}
    verdict.expect_fields(name_key("due", tag), due, deadlines)
    verdict.expect(name_key("outbox", tag), await redis.xlen(name_key("outbox", tag)), 0)
    verdict.expect(name_key("parked", tag), await redis.xlen(name_key("parked", tag)), 0)
    fence = await redis.hgetall(name_key("fence", tag))
    clocks = (str(reference.clock.now).encode(), str(reference.clock.watermark).encode())
    verdict.expect(name_key("fence", tag), (fence.get(b"clock"), fence.get(b"watermark")), clocks)
    verdict.expect(name_key("fence", tag) + " time to live", await redis.ttl(name_key("fence", tag)), -1)


async def verify_readable(verdict: Verdict, redis: Redis, reference: Reference) -> None:
    """Profiles as other programs read them, by the contract alone: with the codec both sides would be wrong."""
    names = [each.name for each in msgspec.structs.fields(Profile)]
    tag = tag_events(reference.partition)
    found = await read_hashes(redis, tag)
    for user, dossier in reference.people.items():
        if (person := dossier.person) is not None:
            wanted = Profile(**{name: getattr(person, name) for name in names})
            key = name_key("profile", tag, user)
            verdict.expect(f"{key} as others read it", read_profile(found.get(key, {})), wanted)


def read_profile(fields: Mapping[bytes, bytes]) -> Profile:
    """
    >>> found = read_profile({b"orders": b"2", b"revenue": b"1.5", b"last_items": b'["i1"]', b"_0": b"..."})
    >>> found == Profile(orders=2, revenue=1.5, last_items=("i1",))
    True
    """
    texts = {name.decode(): value.decode() for name, value in fields.items() if not name.startswith(b"_")}
    lists = {name: msgspec.json.decode(texts[name]) for name in ("top_categories", "last_items") if name in texts}
    return msgspec.convert(texts | lists, Profile, strict=False)


async def read_hashes(redis: Redis, tag: str) -> dict[str, dict[bytes, bytes]]:
    """All hashes of a partition but its fence."""
    keys = [key.decode() async for key in redis.scan_iter(match=f"*:{tag}*", count=5_000)]
    chosen = [key for key in keys if key.split(":", 1)[0] in ("profile", "pending", "consent", "counts")]
    async with redis.pipeline(transaction=False) as pipe:
        for key in chosen:
            pipe.hgetall(key)
        return dict(zip(chosen, await pipe.execute(), strict=True))


def verify_audit(verdict: Verdict, partition: int, lines: Iterable[str]) -> None:
    """Each commit was its fence's owner's, and began where the one before it ended.

    >>> verdict = Verdict()
    >>> verify_audit(verdict, 0, ["a a 1 0 5", "b b 2 5 9"]); verdict.clean
    True
    >>> verify_audit(verdict, 0, ["a a 1 0 5", "a b 2 5 9", "b b 2 5 9"]); verdict.zombies
    2
    """
    at = 0
    for line in lines:
        owner, holder, _, begin, end = line.split()
        if owner != holder or int(begin) < at:
            verdict.zombies += 1
        elif int(begin) > at:
            verdict.differences.append(f"partition {partition}: nobody applied {at} to {begin}")
            verdict.lost += int(begin) - at
        at = max(at, int(end))


def verify_output(verdict: Verdict, entries: Sequence[Any], output: Output) -> None:
    """What was sent is what was decided, copies aside: nothing is missing, nothing is there that nobody decided."""
    for target in ("recommendations", "examples"):
        wanted = {entry.value for entry in entries if entry.target == target}
        found = Counter(record.value for record in output[target])
        missing, alien = wanted - found.keys(), found.keys() - wanted
        verdict.copies += found.total() - len(found)
        verdict.lost += len(missing)
        if missing or alien:
            verdict.differences.append(f"{target}: {len(missing)} missing, {len(alien)} that nobody decided")
            verdict.differences += [f"  missing {_place(value)}" for value in sorted(missing)[:3]]
            verdict.differences += [f"  nobody decided {_place(value)}" for value in sorted(alien)[:3]]
    ids = {msgspec.json.decode(entry.value)["trigger_id"] for entry in entries if entry.target == "recommendations"}
    sent = {msgspec.json.decode(record.value)["trigger_id"] for record in output["recommendations"]}
    verdict.extra += len(sent - ids)
    verify_order(verdict, [entry for entry in entries if entry.target == "recommendations"], output["recommendations"])
    verify_letters(verdict, entries, output)


def verify_order(verdict: Verdict, entries: Sequence[Any], records: Sequence[Any]) -> None:
    """Each person's triggers came first in the order in which they were decided; what is missing is told elsewhere."""
    wanted, found = list_firsts(entries), list_firsts(records)
    out_of_order = [key for key, values in found.items() if values != [v for v in wanted.get(key, ()) if v in values]]
    if out_of_order:
        verdict.disordered += len(out_of_order)
        verdict.differences.append(f"recommendations: those of {len(out_of_order)} people came out of order")


def verify_letters(verdict: Verdict, entries: Sequence[Any], output: Output) -> None:
    """The dead letters are those of the reference."""
    letters = {dict(e.headers)[SOURCE_HEADER]: (e.value, e.headers) for e in entries if e.target == "dead_letters"}
    found_letters = {
        dict(record.headers)[SOURCE_HEADER]: (record.value or b"", tuple(record.headers))
        for record in output["dead_letters"]
    }
    verdict.copies += len(output["dead_letters"]) - len(found_letters)
    verdict.lost += len(letters.keys() - found_letters.keys())
    verdict.expect_fields("dead letter", found_letters, letters)


async def verify_commuting(verdict: Verdict, redis: Redis, references: Sequence[Reference]) -> None:
    """Fields that commute are, within 1e-9, those of the same events in their own order, each once."""
    for reference in references:
        found = {
            key: decode_person(_flatten(fields))
            for key, fields in (await read_hashes(redis, tag_events(reference.partition))).items()
            if key.startswith("profile:")
        }
        wanted = {
            name_key("profile", tag_events(reference.partition), user): dossier.person
            for user, dossier in reference.people.items()
        }
        verdict.expect(f"people of partition {reference.partition}", found.keys(), wanted.keys())
        for key in found.keys() & wanted.keys():
            for name in COMMUTING:
                one, other = getattr(found[key], name), getattr(wanted[key], name)
                pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
                if not all(math.isclose(*pair, rel_tol=1e-9, abs_tol=1e-9) for pair in pairs):
                    verdict.expect(f"in another order: {key} {name}", one, other)


async def verify_live(job: Job, references: Sequence[Reference], output: Output, key: bytes) -> Verdict:
    """Each event counts once, and each decision can be computed again; the references know no model."""
    verdict = Verdict()
    for reference in references:
        await verify_state(verdict, job.redis, reference, forget_models)
        audit = await job.redis.lrange(name_key("audit", tag_events(reference.partition)), 0, -1)  # type: ignore[arg-type]
        verify_audit(verdict, reference.partition, [line.decode() for line in audit])
    entries = [entry for reference in references for entry in reference.entries]
    verify_letters(verdict, entries, output)
    wanted = {describe_example(entry.value) for entry in entries if entry.target == "examples"}
    found = Counter(describe_example(record.value) for record in output["examples"])
    verdict.copies += found.total() - len(found)
    verdict.lost += len(wanted - found.keys())
    verdict.expect("examples", (len(wanted - found.keys()), len(found.keys() - wanted)), (0, 0))
    await verify_learning(verdict, job.redis, output["examples"], key)
    models = learn_again(output["examples"], await find_versions(job.redis, references, output))
    for check in (check_examples, check_triggers, check_profiles):
        try:
            if not await check(job, models):
                verdict.differences.append(f"{check.__name__}: there was nothing to compute again")
        except (AssertionError, KeyError) as error:
            verdict.differences.append(f"{check.__name__}: {error!r}")
    return verdict


def forget_models(hashes: Hashes) -> dict[str, Any]:
    """What of a partition's hashes does not depend on any model."""
    kept: dict[str, Any] = {}
    for key, fields in hashes.items():
        kind = key.split(":", 1)[0]
        if kind == "profile" and (person := decode_person(_flatten(fields))) is not None:
            person.conversion_probability = person.conversion_version = person.ctr = None
            person.fired = {}
            kept[key] = asdict(person)
        elif kind == "pending":
            windows = {name: msgspec.msgpack.decode(packed, type=Window) for name, packed in fields.items()}
            kept[key] = {name: replace(w, prediction=None, model_version=None) for name, w in windows.items()}
        elif kind == "counts":
            kept[key] = {name: n for name, n in fields.items() if not name.startswith((b"triggers", b"suppressed"))}
        else:
            kept[key] = fields
    return kept


def describe_example(value: bytes) -> tuple[Any, ...]:
    """What of an example does not depend on any model."""
    told = msgspec.json.decode(value, type=Example | Interaction)
    if isinstance(told, Example):
        told = replace(told, prediction=None, model_version=None)
    return tuple(asdict(told).items())


async def find_versions(redis: Redis, references: Sequence[Reference], output: Output) -> set[int]:
    """Versions that examples, triggers or profiles name."""
    examples = [msgspec.json.decode(record.value) for record in output["examples"]]
    triggers = [msgspec.json.decode(record.value) for record in output["recommendations"]]
    named = {example.get("model_version") for example in examples}
    named |= {version for trigger in triggers for version in trigger.get("model_versions", {}).values()}
    for reference in references:
        hashes = await read_hashes(redis, tag_events(reference.partition))
        named |= {int(fields.get(b"conversion_version", -1)) for fields in hashes.values()}
    return named - {None}


def learn_again(examples: Sequence[Any], versions: Container[int]) -> dict[tuple[str, int], Scorer]:
    """What scored under these versions, by outcome and version: learned anew from the examples up to each."""
    learners = LearnerSet(NAMES, SCHEMA, CATEGORICAL)
    models = {}
    for record in examples:
        learners.learn(msgspec.json.decode(record.value, type=Example | Interaction))
        if record.offset in versions:
            for name, learner in learners.outcomes.items():
                if (scorer := learner.scorer()) is not None:
                    models[name, record.offset] = open_scorer(scorer.to_bytes())
    return models


def distinct(examples: Iterable[Any]) -> list[Example | Interaction]:
    """The examples as they lie in the topic, each at its first place."""
    known: set[tuple[int, int, int, int]] = set()
    first = []
    for record in examples:
        example = msgspec.json.decode(record.value, type=Example | Interaction)
        place = (example.partition, example.generation, example.offset, example.index)
        if place not in known:
            known.add(place)
            first.append(example)
    return first


async def verify_learning(verdict: Verdict, redis: Redis, examples: Sequence[Any], key: bytes) -> None:
    """The last snapshots are those of a learner that took each example once, to the byte."""
    learners = LearnerSet(NAMES, SCHEMA, CATEGORICAL)
    for example in distinct(examples):
        if not learners.learn(example):
            verdict.differences.append("examples: the first copies of a partition are out of order")
    tag = tag_source("examples", 0)
    last = examples[-1].offset if examples else -1
    for wanted in learners.snapshots(last, 0):
        sealed = await redis.get(name_key("snapshot", tag, wanted.model, last))
        if sealed is None:
            verdict.differences.append(f"snapshot {last} of {wanted.model} was not published")
            continue
        found = open_sealed(sealed, key)
        verdict.expect(f"{wanted.model}: places learned", found.positions, wanted.positions)
        verdict.expect(f"{wanted.model}: what was learned", found.learning, wanted.learning)
        verdict.expect(f"{wanted.model}: what scores", found.scoring, wanted.scoring)


async def ask_oracle(
    verdict: Verdict, redis: Redis, settings: Settings, records: Sequence[Any], output: Output
) -> None:
    """Counters, consent and the triggers of the rule `abandoned` are those that the second oracle finds."""
    triggers: set[str] = set()
    for partition in range(settings.topics.partitions):
        oracle = consult([r for r in records if r.partition == partition], settings)
        triggers |= oracle.triggers
        tag = tag_events(partition)
        told = {name_key("consent", tag, user): allowed for user, allowed in oracle.consents().items()}
        hashes = await read_hashes(redis, tag)
        consents = {
            key: {name.decode(): value == b"1" for name, value in fields.items() if name[:1].isalpha()}
            for key, fields in hashes.items()
            if key.startswith("consent:")
        }
        verdict.expect_fields("oracle:", {key: allowed for key, allowed in consents.items() if allowed}, told)
        counts = {name.decode(): int(value) for name, value in hashes.get(name_key("counts", tag), {}).items()}
        counted = {name: counts.get(name, 0) for name in oracle.counts}
        verdict.expect_fields(f"oracle: partition {partition}", counted, oracle.counts)
    if settings.batch.closings_per_event >= ALL:
        sent = [msgspec.json.decode(record.value) for record in output["recommendations"]]
        found = {trigger["trigger_id"] for trigger in sent if trigger["rule"] == "abandoned"}
        verdict.expect_fields("oracle: trigger", dict.fromkeys(found, True), dict.fromkeys(triggers, True))


def consult(records: Sequence[Any], settings: Settings) -> Oracle:
    """The oracle, after it has read these records of one partition."""
    [rule] = [rule for rule in settings.rules if isinstance(rule, AbandonedRule)]
    oracle = Oracle(
        lateness=settings.lateness,
        after=rule.after,
        cooldown=rule.cooldown,
        valid_for=rule.valid_for,
        ttl=settings.profile_ttl,
        rule=rule.name,
    )
    for record in records:
        oracle.read(record.value, record.headers)
    return oracle


def _flatten(fields: Mapping[bytes, bytes]) -> list[bytes]:
    return [part for pair in fields.items() for part in pair]


def _place(value: bytes) -> dict[str, Any]:
    told = msgspec.json.decode(value)
    return {name: found for name, found in told.items() if name not in ("features", "top_features", "schema", "items")}


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
