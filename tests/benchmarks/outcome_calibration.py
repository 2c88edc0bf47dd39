"""Calibration of the outcome learner on a year of real orders, with labels that arrive as late as they really did.

Every order of UCI Online Retail opens windows; the customer's next order fulfils those that are still open. Examples
reach the learner in event-time order, and predictions come from snapshots that are days old, as on a slow stream.
Prints a table and, as its last line, one JSON object. Reads `events/online_retail.parquet` below NUDGE_DATA.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.outcomes.learner import OutcomeLearner
from models.outcomes.policies import FakeNegativeWeighting, Wait
from models.outcomes.scorer import LinearScorer
from schemas.example import Example, Stage

DAY: Final = 86_400_000
NAMES: Final = (
    "recency",
    "orders",
    "revenue",
    "recent_orders",
    "tenure",
    "is_new",
    "order_value",
    "order_lines",
    "weekday_sin",
    "weekday_cos",
    "hour_sin",
    "hour_cos",
    "mean_gap",
)


class Order(NamedTuple):
    """An order: time in epoch milliseconds, number, customer, value in pounds, number of lines."""

    ts: int
    number: str
    customer: int
    value: float
    lines: int


class Customer(NamedTuple):
    """What is known of a customer before an order; `recent` decays by half a week, `gap` is in days."""

    first: int
    last: int
    orders: int = 0
    revenue: float = 0.0
    recent: float = 0.0
    gap: float = 0.0


class Case(NamedTuple):
    """A way to run: days of the window, days between snapshots, whether each order line opens a window, policy."""

    window: int
    every: int
    by_line: bool
    policy: str


FNW: Final = FakeNegativeWeighting.name
CASES: Final = (
    *(Case(window, every, False, FNW) for window in (30, 7, 1) for every in (0, 3, 7)),
    Case(30, 3, False, Wait.name),
    Case(30, 3, True, FNW),
)
"""`every=0` takes a snapshot before each order. By line, an order teaches as many equal rows as it has lines."""


def read_orders(path: Path) -> list[Order]:
    """Orders by time, those without a customer and cancellations left out."""
    table = pq.read_table(path)
    table = table.filter(pc.and_(pc.is_valid(table["CustomerID"]), pc.invert(pc.starts_with(table["InvoiceNo"], "C"))))
    times = (table["InvoiceDate"].cast("int64").to_numpy() // 1_000_000).tolist()
    columns = (table[name].to_pylist() for name in ("InvoiceNo", "CustomerID", "Quantity", "UnitPrice"))
    found: dict[str, Order] = {}
    for ts, number, customer, quantity, price in zip(times, *columns, strict=True):
        order = found.get(number) or Order(ts, number, int(customer), 0.0, 0)
        found[number] = order._replace(value=order.value + quantity * price, lines=order.lines + 1)
    return sorted(found.values())


def features(order: Order, customer: Customer) -> tuple[float, ...]:
    """One row of `NAMES`, from what was known just before `order`."""
    weekday, hour = (2 * math.pi * (order.ts / period % 1.0) for period in (7 * DAY, DAY))
    return (
        math.log1p((order.ts - customer.last) / DAY),
        math.log1p(customer.orders),
        math.log1p(customer.revenue),
        customer.recent * 2.0 ** ((customer.last - order.ts) / (7 * DAY)),
        math.log1p((order.ts - customer.first) / DAY),
        float(customer.orders == 0),
        math.log1p(max(order.value, 0.0)),
        math.log1p(order.lines),
        math.sin(weekday),
        math.cos(weekday),
        math.sin(hour),
        math.cos(hour),
        math.log1p(customer.gap),
    )


def after(order: Order, customer: Customer) -> Customer:
    """The customer with `order` taken in."""
    gap = (order.ts - customer.last) / DAY
    return Customer(
        first=customer.first,
        last=order.ts,
        orders=customer.orders + 1,
        revenue=customer.revenue + max(order.value, 0.0),
        recent=customer.recent * 2.0 ** ((customer.last - order.ts) / (7 * DAY)) + 1.0,
        gap=gap if customer.orders < 2 else 0.7 * customer.gap + 0.3 * gap,
    )


def replay(orders: list[Order], window: int) -> Iterator[tuple[int, int, Stage, int, int]]:
    """(time, rank within it, stage, place of the order, label) by time; windows still open at the end never mature."""
    waiting: defaultdict[int, list[int]] = defaultdict(list)
    log: list[tuple[int, int, Stage, int, int]] = []
    fulfilled: set[int] = set()
    for place, order in enumerate(orders):
        for earlier in waiting.pop(order.customer, ()):
            if 0 < order.ts - orders[earlier].ts <= window:
                log.append((order.ts, 0, "fulfilled", earlier, 1))
                fulfilled.add(earlier)
        log.append((order.ts, 1, "exposed", place, 0))
        waiting[order.customer].append(place)
    closed = [place for place, order in enumerate(orders) if order.ts + window <= orders[-1].ts]
    log += [(orders[place].ts + window, 2, "matured", place, int(place in fulfilled)) for place in closed]
    return iter(sorted(log))


def rows_of(orders: list[Order]) -> list[tuple[float, ...]]:
    """Features of every order, in order."""
    customers: dict[int, Customer] = {}
    rows = []
    for order in orders:
        customer = customers.get(order.customer) or Customer(order.ts, order.ts)
        rows.append(features(order, customer))
        customers[order.customer] = after(order, customer)
    return rows


def run(orders: list[Order], rows: list[tuple[float, ...]], case: Case) -> dict[str, float | str]:
    """Replay the year as `case` says; the metrics of the stored predictions."""
    learner = OutcomeLearner("reorder", NAMES, "benchmark", policy=case.policy)
    scorer: LinearScorer | None = None
    stored: dict[int, float] = {}
    due = orders[0].ts + case.every * DAY
    spent, learned = 0.0, 0
    for ts, _, stage, place, label in replay(orders, case.window * DAY):
        if ts >= due and learned:
            scorer, due = learner.scorer(), ts + case.every * DAY
        if stage == "exposed" and scorer is not None:
            stored[place] = scorer.score_one(rows[place])
        example = Example(
            example_id=str(place),
            outcome="reorder",
            stage=stage,
            label=label,
            partition=0,
            offset=place,
            index=0,
            exposed_at=orders[place].ts,
            features=rows[place],
            schema="benchmark",
            prediction=stored.get(place),
        )
        copies = orders[place].lines if case.by_line and stage != "matured" else 1
        begun = time.perf_counter()
        for _ in range(copies):
            learner.learn(example)
        spent += time.perf_counter() - begun
        learned += copies
    return _summary(case, learner.evaluation.metrics(), learned / spent)


def _summary(case: Case, metrics: dict[str, float], rate: float) -> dict[str, float | str]:
    names = ("rows", "base_rate", "log_loss", "base_log_loss", "calibration_ratio", "ece", "roc_auc")
    return {
        "window_days": case.window,
        "snapshot_every_days": case.every,
        "rows_by": "line" if case.by_line else "order",
        "policy": case.policy,
        **{name: round(metrics[name], 4) for name in names},
        "rows_per_second": round(rate),
    }


def main() -> int:
    """Print the table and the JSON line; the exit status."""
    root = os.environ.get("NUDGE_DATA")
    if not root:
        reason = "NUDGE_DATA is unset: it names the folder with events/online_retail.parquet"
        print(f"skipped: {reason}", file=sys.stderr)
        print(json.dumps({"skipped": reason}))
        return 0
    orders = read_orders(Path(root) / "events" / "online_retail.parquet")
    rows = rows_of(orders)
    print("window  snapshot  rows by  policy                   labels  base   log-loss (base)   ratio  ECE    AUC")
    results = []
    for case in CASES:
        of = run(orders, rows, case)
        results.append(of)
        print(
            f"{of['window_days']:>4} d  {of['snapshot_every_days']:>6} d  {of['rows_by']:<7}  {of['policy']:<23}"
            f"{of['rows']:>8.0f}  {of['base_rate']:.3f}  {of['log_loss']:.4f} ({of['base_log_loss']:.4f})"
            f"  {of['calibration_ratio']:.3f}  {of['ece']:.3f}  {of['roc_auc']:.3f}",
            flush=True,
        )
    print(json.dumps({"orders": len(orders), "cases": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
