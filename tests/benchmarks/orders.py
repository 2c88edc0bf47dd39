"""Orders of UCI Online Retail as rows with labels that arrive as late as they really did.

Every order opens windows; the customer's next order fulfils those that are still open, and a window matures when it
closes. Reads `events/online_retail.parquet`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.example import Stage

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
