"""What a metric is made of: a count, a level or a distribution, each fed once per batch and read by the live view.

Counts and levels are prometheus-client's own. The distribution is ours, because theirs costs about a microsecond per
observed value and keeps no percentiles: it takes a whole array at once, keeps finer buckets than it exposes, and knows
the last seconds beside the whole run. Nothing here locks; all of it belongs to the event loop's thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily

Clock = Callable[[], float]
"""Monotonic seconds."""

Labels = tuple[str, ...]

STEPS_PER_DECADE: Final = 60
"""Fine buckets are 3.9 % wide, so a percentile is off by 2 % at most."""

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Exposed bounds of latencies: the budgets (10, 50 and 150 ms) are among them."""

SHORT_SECONDS: Final = (0.0001, 0.00025, 0.0005, *SECONDS[:13])
"""Exposed bounds of what happens within one batch."""

SIZES: Final = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)
"""Exposed bounds of batch sizes."""


class Tally:
    """A counter, with or without labels.

    >>> sent = Tally(CollectorRegistry(), "demo_total", "Sent.", ("topic",))
    >>> sent.add_all({"a": 2, "b": 1}); sent.add(3, "a"); sent.read()
    {('a',): 5.0, ('b',): 1.0}
    """

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Labels = ()) -> None:
        self._counter: Any = Counter(name, text, labels, registry=registry)
        self._labels = labels

    def add(self, count: int = 1, *labels: str) -> None:
        """Add `count` (not negative, else `ValueError`) to the series of these label values."""
        (self._counter.labels(*labels) if labels else self._counter).inc(count)

    def add_all(self, counts: Mapping[str, int] | Mapping[tuple[str, str], int]) -> None:
        """Add a batch's counts, by label value or by pair of label values."""
        for key, count in counts.items():
            self.add(count, *((key,) if isinstance(key, str) else key))

    def prepare(self, series: Iterable[Labels]) -> None:
        """Expose these series at zero, so that a rate sees their first increase."""
        for labels in series:
            self._counter.labels(*labels)

    def read(self) -> dict[Labels, float]:
        """Count by tuple of label values; the empty tuple where there are no labels."""
        return _read(self._counter, self._labels)

    def total(self) -> int:
        """Sum over all series."""
        return int(sum(self.read().values()))

    def sum_by(self, label: str) -> dict[str, int]:
        """Sums by one label's values, the largest first, those at zero left out."""
        place, sums = self._labels.index(label), dict[str, int]()
        for labels, count in self.read().items():
            sums[labels[place]] = sums.get(labels[place], 0) + int(count)
        return {name: count for name, count in sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])) if count}


class Level:
    """A gauge, with or without labels.

    >>> lag = Level(CollectorRegistry(), "demo_lag", "Lag.", ("partition",))
    >>> lag.set(7, "0"); lag.set(9, "1"); lag.forget("0"); lag.read()
    {('1',): 9.0}
    """

    def __init__(self, registry: CollectorRegistry, name: str, text: str, labels: Labels = ()) -> None:
        self._gauge: Any = Gauge(name, text, labels, registry=registry)
        self._labels = labels

    def set(self, value: float, *labels: str) -> None:
        """Show `value` from now on."""
        (self._gauge.labels(*labels) if labels else self._gauge).set(value)

    def follow(self, function: Callable[[], float], *labels: str) -> None:
        """Show what `function` returns at each scrape."""
        (self._gauge.labels(*labels) if labels else self._gauge).set_function(function)

    def forget(self, *labels: str) -> None:
        """Stop showing a series; one that is not there is fine."""
        self._gauge.remove_by_labels(dict(zip(self._labels, labels, strict=True)))

    def read(self) -> dict[Labels, float]:
        """Value by tuple of label values."""
        return _read(self._gauge, self._labels)


def _read(metric: Any, labels: Labels) -> dict[Labels, float]:
    samples = (sample for sample in metric.collect()[0].samples if not sample.name.endswith("_created"))
    return {tuple(sample.labels[name] for name in labels): sample.value for sample in samples}


class Recent:
    """Sums of a vector of `size` numbers over the last `slots` slots of `slot_seconds` each.

    The slot under way counts in `total`, not in `rate`, which would otherwise sag at the start of each slot.
    """

    def __init__(self, size: int, slots: int, slot_seconds: float, clock: Clock) -> None:
        self._rows: NDArray[np.int64] = np.zeros((slots + 1, size), np.int64)
        self._turns: NDArray[np.int64] = np.full(slots + 1, -1, np.int64)
        self._slots, self._seconds, self._clock = slots, slot_seconds, clock
        self._first: int | None = None

    def row(self) -> NDArray[np.int64]:
        """The slot under way, to add to."""
        turn = int(self._clock() / self._seconds)
        if self._first is None:
            self._first = turn
        place = turn % len(self._rows)
        if self._turns[place] != turn:
            self._turns[place] = turn
            self._rows[place] = 0
        row: NDArray[np.int64] = self._rows[place]
        return row

    def total(self) -> NDArray[np.int64]:
        """Sums over the last slots and the one under way."""
        turn = int(self._clock() / self._seconds)
        return self._sum(turn - self._slots, turn)

    def rate(self) -> float:
        """All that was added a second, over the last whole slots; over fewer soon after the first was added."""
        turn = int(self._clock() / self._seconds)
        if self._first is None:
            return 0.0
        whole = min(self._slots, turn - self._first)
        if whole == 0:
            return 0.0
        return float(self._sum(turn - whole, turn - 1).sum()) / (whole * self._seconds)

    def _sum(self, first: int, last: int) -> NDArray[np.int64]:
        total: NDArray[np.int64] = self._rows[(self._turns >= first) & (self._turns <= last)].sum(axis=0)
        return total


class Distribution:
    """Values in buckets: fine ones for percentiles, and among their edges the `bounds` that are exposed.

    >>> latency = Distribution(SECONDS, clock=lambda: 0.0)
    >>> latency.observe_all([0.010] * 98 + [0.200] * 2)
    >>> f"{latency.quantile(0.5):.3f} {latency.quantile(0.99):.2f} {latency.count} {latency.sum:.2f}"
    '0.010 0.20 100 1.38'
    """

    def __init__(self, bounds: Sequence[float], clock: Clock, *, recent_seconds: int = 10) -> None:
        low, high = np.log10(bounds[0]), np.log10(bounds[-1])
        fine = 10.0 ** np.arange(low - 1, high + 4, 1 / STEPS_PER_DECADE)
        self._edges: NDArray[np.float64] = np.unique(np.concatenate([fine, np.asarray(bounds, np.float64)]))
        self._edge_list: list[float] = self._edges.tolist()
        self._bounds = tuple(bounds)
        self._exposed = np.searchsorted(self._edges, bounds)
        self._counts: NDArray[np.int64] = np.zeros(len(self._edges) + 1, np.int64)
        self._recent = Recent(len(self._counts), recent_seconds, 1.0, clock)
        self.sum = 0.0
        self.max = 0.0

    @property
    def count(self) -> int:
        """Number of values observed."""
        return int(self._counts.sum())

    def observe(self, value: float) -> None:
        """Take one value; below zero (clocks differ) counts as zero."""
        value = max(value, 0.0)
        place = bisect_left(self._edge_list, value)
        self._counts[place] += 1
        self._recent.row()[place] += 1
        self.sum += value
        self.max = max(self.max, value)

    def observe_all(self, values: ArrayLike) -> None:
        """Take a batch's values at once, shape (n,)."""
        array = np.maximum(np.asarray(values, np.float64), 0.0)
        if not array.size:
            return
        # A bucket holds what is at most its upper edge, as Prometheus' `le` has it.
        added = np.bincount(np.searchsorted(self._edges, array), minlength=len(self._counts))
        self._counts += added
        row = self._recent.row()
        row += added
        self.sum += float(array.sum())
        self.max = max(self.max, float(array.max()))

    def quantile(self, share: float) -> float | None:
        """Value that `share` (0 to 1) of the whole run's values do not exceed, within 2 %; None without values."""
        return self._find(self._counts, share)

    def recent_quantile(self, share: float) -> float | None:
        """The same over the last seconds."""
        return self._find(self._recent.total(), share)

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by exposed bound, as the Prometheus format wants them."""
        sums = np.cumsum(self._counts)
        shown = [(str(bound), float(sums[place])) for bound, place in zip(self._bounds, self._exposed, strict=True)]
        return [*shown, ("+Inf", float(sums[-1]))]

    def _find(self, counts: NDArray[np.int64], share: float) -> float | None:
        sums = np.cumsum(counts)
        if not sums[-1]:
            return None
        place = int(np.searchsorted(sums, share * sums[-1]))
        if place == 0:
            return min(self._edge_list[0], self.max)
        if place == len(self._edge_list):
            return self.max
        return min(float(np.sqrt(self._edge_list[place - 1] * self._edge_list[place])), self.max)


class Spread:
    """A histogram metric: one `Distribution`, or one for each value of `label`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        text: str,
        clock: Clock,
        label: str | None = None,
        bounds: Sequence[float] = SECONDS,
    ) -> None:
        self._name, self._text, self._label, self._clock, self._bounds = name, text, label, clock, bounds
        self._all: dict[str, Distribution] = {}
        if label is None:
            self.of("")
        registry.register(self)

    def of(self, value: str = "") -> Distribution:
        """The distribution of one label value; without a label there is one, under the empty string."""
        found = self._all.get(value)
        if found is None:
            found = self._all[value] = Distribution(self._bounds, self._clock)
        return found

    def collect(self) -> list[Any]:
        """The family that Prometheus scrapes."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for value, distribution in self._all.items():
            family.add_metric([value] if self._label else [], distribution.buckets(), distribution.sum)
        return [family]
