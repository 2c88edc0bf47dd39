"""Decide: what the batch sends out, entry by entry in log order, each with its position.

A decision is a plain function of one event, the moment of its person and the scores; nothing here asks a clock. At one
offset the windows that closed speak first, then the event's own labels, its interaction and its triggers.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from typing import Final

import msgspec
from msgspec.structs import asdict, replace

from models.lifecycle.registry import Lineup
from models.outcomes.features import SCHEMA
from models.outcomes.windows import Window
from models.person import Person, has_bought
from schemas.event import Event, Role
from schemas.example import Example, Interaction, Stage
from schemas.reasons import Rejected
from schemas.scored import ScoredEvent, TextSentiment
from schemas.trigger import RecommendationTrigger, RecommendedItem
from stream.settings import AbandonedRule, Outcome, Rule, ScoreRule, Settings
from stream.stages.batch import Batch, Closing, Entry, Item, Moment, Position, Record, Target
from stream.stages.letters import write_headers

TOP_FEATURES: Final = 5
_json = msgspec.json.Encoder()


def name_trigger(user_id: str, event_id: str, rule: str) -> str:
    """Id of a trigger: a hash of (user, event id, rule), the same however often the event is decided.

    >>> name_trigger("ann", "e1", "likely-to-convert")
    '96eeb30b1db16f40e833928a'
    """
    text = "\x1f".join((user_id, event_id, rule))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Decide:
    """The stage's options: built once, called for every batch."""

    def __init__(self, settings: Settings) -> None:
        self.score_rules = [rule for rule in settings.rules if isinstance(rule, ScoreRule)]
        self.abandoned = {rule.name: rule for rule in settings.rules if isinstance(rule, AbandonedRule)}
        self.outcomes = {outcome.name: outcome for outcome in settings.outcomes}
        self.send_scores = settings.send_scores
        self.interesting: frozenset[Role] = frozenset(settings.recommend.roles)

    def __call__(self, batch: Batch, models: Lineup) -> None:
        """Fill `batch.entries` in position order and count what was decided."""
        writer = Writer(batch)
        rejected = iter(batch.rejected)
        refusal = next(rejected, None)
        scored: Counter[Role] = Counter()
        for item in batch.items:
            while refusal is not None and refusal[0].offset < item.record.offset:
                writer.refuse(*refusal)
                refusal = next(rejected, None)
            writer.move(item.record)
            if item.closings:
                for closing in item.closings:
                    self._close(writer, item, closing, models)
            if item.person is not None and item.event is not None:
                scored[item.role] += 1
                self._speak(writer, item, item.person, item.event, models)
        while refusal is not None:
            writer.refuse(*refusal)
            refusal = next(rejected, None)
        for role, number in scored.items():
            batch.counts["scored"] += number
            batch.counts["scored:" + role] += number

    def _close(self, writer: Writer, item: Item, closing: Closing, models: Lineup) -> None:
        window = closing.window
        if window.kind == "outcome":
            writer.teach(window, "matured", int(window.fulfilled))
            return
        rule = self.abandoned.get(window.name)
        if rule is None:
            return
        if not closing.may_trigger:
            writer.batch.counts["suppressed:consent"] += 1
            return
        if item.clock - window.deadline > rule.valid_for:
            # Time may leap: between two events of a log that is filled in later, or over an outage.
            writer.batch.counts["suppressed:stale"] += 1
            return
        if closing.person is None or not _cool(writer, closing.person, rule, window.deadline):
            return
        items, versions = _recommend(closing.moment, rule, models)
        reason = f"no {' or '.join(rule.cancelled_by)} within {describe_span(rule.after)} of {rule.opened_by[0]}"
        trigger = RecommendationTrigger(
            trigger_id=name_trigger(window.user_id, window.event_id, rule.name),
            user_id=window.user_id,
            rule=rule.name,
            event_id=window.event_id,
            decided_at=item.clock,
            expires_at=item.clock + rule.valid_for,
            reason=reason,
            channel=rule.channel,
            campaign_id=window.campaign_id,
            items=items,
            model_versions=versions,
        )
        writer.trigger(trigger)
        writer.batch.touched.add(window.user_id)

    def _speak(self, writer: Writer, item: Item, person: Person, event: Event, models: Lineup) -> None:
        for window in item.fulfilled:
            writer.teach(window, "fulfilled", 1)
        for window in item.opened:
            writer.teach(window, "exposed", 0)
        if self.send_scores and (item.probability or item.said is not None):
            writer.tell(item, event, models)
        if item.moment is None:
            return
        if event.item_id is not None and item.role in self.interesting:
            writer.interact(event.item_id, item, event, item.moment)
        probabilities = item.probability
        if not probabilities:
            return
        for rule in self.score_rules:
            probability = probabilities.get(rule.outcome)
            if probability is None or item.role not in rule.roles or probability < rule.at_least:
                continue
            if not item.may_trigger:
                writer.batch.counts["suppressed:consent"] += 1
            elif _cool(writer, person, rule, event.ts):
                writer.trigger(self._fire(rule, probability, item, event, item.moment, models))

    def _fire(
        self, rule: ScoreRule, probability: float, item: Item, event: Event, moment: Moment, models: Lineup
    ) -> RecommendationTrigger:
        scorer, version = models.outcomes[rule.outcome]
        outcome = self.outcomes[rule.outcome]
        contributions = scorer.contributions(item.row or (), TOP_FEATURES)
        if outcome.inverted:
            contributions = tuple([replace(each, contribution=-each.contribution) for each in contributions])
        items, versions = _recommend(moment, rule, models)
        return RecommendationTrigger(
            trigger_id=name_trigger(event.user_id, event.event_id, rule.name),
            user_id=event.user_id,
            rule=rule.name,
            event_id=event.event_id,
            decided_at=item.clock,
            expires_at=item.clock + rule.valid_for,
            reason=f"{probability:.0%} likely{describe_outcome(outcome)} of this {item.role}",
            channel=rule.channel,
            campaign_id=event.campaign_id,
            scores={rule.outcome: probability},
            expected_value=probability * outcome.value if outcome.value is not None else None,
            top_features=contributions,
            items=items,
            model_versions={rule.outcome: version, **versions},
        )


class Writer:
    """Numbers the entries of a batch: `move` to a record, then write what it leads to."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.offset, self.number = batch.emitted
        self.at = 0

    def move(self, record: Record) -> None:
        """Go on to `record`; at an offset that has entries already (a quiet partition's) the numbers go on too."""
        self.at = record.timestamp
        if record.offset != self.offset:
            self.offset, self.number = record.offset, 0

    def write(
        self,
        target: Target,
        key: bytes,
        value: bytes,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> None:
        """Append an entry at the place which `step` has moved to."""
        self.batch.entries.append(Entry(Position(self.offset, self.number), target, key, value, headers, self.at))

    def step(self) -> int:
        """Go on to the next number at this offset, and return it."""
        self.number += 1
        return self.number

    def teach(self, window: Window, stage: Stage, label: int) -> None:
        """Tell the learners about `window`."""
        number = self.step()
        example = Example(
            example_id=window.id,
            outcome=window.name,
            stage=stage,
            label=label,
            partition=self.batch.partition,
            generation=self.batch.generation,
            offset=self.offset,
            index=number,
            exposed_at=window.opened_at,
            features=window.features,
            schema=SCHEMA,
            prediction=window.prediction,
            model_version=window.model_version,
            channel=window.channel,
            campaign_id=window.campaign_id,
        )
        self.write("examples", window.name.encode(), _json.encode(example))
        self.batch.counts["examples"] += 1
        self.batch.counts[f"examples:{stage}:{label}"] += 1

    def interact(self, item_id: str, item: Item, event: Event, moment: Moment) -> None:
        """Tell the recommender that an item was touched, after which others; it names nobody."""
        number = self.step()
        interaction = Interaction(
            item_id=item_id,
            role=item.role,
            ts=event.ts,
            partition=self.batch.partition,
            generation=self.batch.generation,
            offset=self.offset,
            index=number,
            before=tuple([other for other in moment.last_items if other != item_id]),
        )
        self.write("examples", b"recommend", _json.encode(interaction))

    def tell(self, item: Item, event: Event, models: Lineup) -> None:
        """Send what was said of an event."""
        scored = ScoredEvent(
            user_id=event.user_id,
            event_id=event.event_id,
            role=item.role,
            ts=event.ts,
            decided_at=item.clock,
            scores=item.probability,
            model_versions={name: models.outcomes[name][1] for name in item.probability},
            sentiment=TextSentiment(**asdict(item.said)) if item.said is not None else None,
        )
        self.step()
        self.write("scored", event.user_id.encode(), _json.encode(scored))

    def trigger(self, trigger: RecommendationTrigger) -> None:
        """Send a trigger."""
        self.step()
        self.write("recommendations", trigger.user_id.encode(), _json.encode(trigger))
        self.batch.triggers.append(trigger)
        self.batch.counts["triggers"] += 1
        self.batch.counts["triggers:" + trigger.rule] += 1

    def refuse(self, record: Record, rejection: Rejected) -> None:
        """Send a record that can't be used to the dead letters, its bytes and headers as they were."""
        self.move(record)
        headers = write_headers(rejection, self.batch.topic, self.batch.partition, record, self.batch.generation)
        self.step()
        self.write("dead_letters", record.key or b"", record.value or b"", headers)
        self.batch.counts["dead_letters"] += 1
        self.batch.counts["dead_letters:" + rejection.reason] += 1


def describe_outcome(outcome: Outcome) -> str:
    """What is likely, in words that follow on "likely".

    >>> describe_outcome(Outcome(window=86_400_000))
    ' to convert within 1 day'
    >>> describe_outcome(Outcome(window=86_400_000, fulfilled_by=("view", "click"), inverted=True))
    ': no view or click within 1 day'
    """
    roles = " or ".join(outcome.fulfilled_by)
    if outcome.inverted:
        what = f": no {roles}"
    else:
        what = " to convert" if outcome.fulfilled_by == ("conversion",) else f": {roles}"
    return f"{what} within {describe_span(outcome.window)}"


def describe_span(milliseconds: int) -> str:
    """A length of time in words.

    >>> describe_span(1_800_000), describe_span(86_400_000), describe_span(2_592_000_000)
    ('30 minutes', '1 day', '30 days')
    """
    for name, unit in (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1_000)):
        if milliseconds >= unit and milliseconds % unit == 0:
            number = milliseconds // unit
            return f"{number} {name}{'s' if number > 1 else ''}"
    return f"{milliseconds} milliseconds"


def _cool(writer: Writer, person: Person, rule: Rule, ts: int) -> bool:
    """Whether the rule may fire for this person at `ts`, event time; if so, it has."""
    name = zlib.crc32(rule.name.encode())
    last = person.fired.get(name)
    if last is not None and ts - last < rule.cooldown:
        writer.batch.counts["suppressed:cooldown"] += 1
        return False
    person.fired = {**person.fired, name: ts}
    return True


def _recommend(moment: Moment, rule: Rule, models: Lineup) -> tuple[tuple[RecommendedItem, ...], dict[str, int]]:
    """Items for this person, none that was bought, and their version; nothing while the recommender is cold."""
    if models.recommendation is None:
        return (), {}
    recommender, version = models.recommendation
    items = recommender.recommend(moment.last_items, lambda item: has_bought(moment.bought, item), rule.items)
    return items, {"recommend": version}
