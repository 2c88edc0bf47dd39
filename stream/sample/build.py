"""Makes the bundled sample from UCI Online Retail, Complete Journey and UCI Sentiment Labelled Sentences.

Rows of the published tables come in, two Parquet files leave: `sample.parquet` (one event a row, in event-time order)
and `catalogue.parquet` (item_id, title, category). A chosen person's history is kept whole, so that who bought again
and who redeemed is as it was; everything random follows `SEED`, so the same inputs give the same rows.

Run `python -m stream.sample.build --data FOLDER --out FOLDER`.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Row = dict[str, Any]

SEED: Final = 20_101_201
RETAIL_CUSTOMERS: Final = 640
HOUSEHOLDS: Final = 865
MAX_RETAIL_LINES: Final = 120
"""Customers with more purchase lines than this are resellers whose orders would fill the sample; none is chosen."""

JOURNEY_SHIFT: Final = timedelta(weeks=317)
"""Taken from every Complete Journey date, so that 2017 falls on 2010-12-05 to 2011-12-05. Weekdays stay."""
JOURNEY_BEGINS: Final = date(2017, 1, 1)
STORE_TIME: Final = timedelta(hours=5)
"""Complete Journey stamps are UTC, its dates those of US Eastern shops: a shop's day begins at 05:00 UTC."""
NOT_GOODS: Final = ("COUPON/MISC ITEMS", "FUEL")
"""Categories of fuel and coupon lines, whose quantity is not a number of pieces."""

SENT_AT: Final = timedelta(hours=8)
SENT_WITHIN: Final = timedelta(hours=2)
REDEEMED_AT: Final = timedelta(hours=18)
REVIEW_DELAY: Final = (timedelta(days=1), timedelta(days=14))

EVENTS: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("event_id", "user_id", "type")),
        ("ts", pa.int64()),
        *((name, pa.string()) for name in ("channel", "campaign_id", "item_id", "category")),
        *((name, pa.float64()) for name in ("price", "quantity")),
        *((name, pa.string()) for name in ("currency", "content", "lang", "session_id")),
    ]
)
CATALOGUE: Final = pa.schema([(name, pa.string()) for name in ("item_id", "title", "category")])


def read_retail(data: Path) -> list[Row]:
    """Online Retail lines of customers that are known, goods only (a StockCode that begins with a digit).

    Each row has `line`, its place within its invoice as published, counted from 1 over all of the invoice's rows.
    """
    rows = pq.read_table(data / "events" / "online_retail.parquet").to_pylist()
    lines: Counter[str] = Counter()
    for row in rows:
        lines[row["InvoiceNo"]] += 1
        row["line"] = lines[row["InvoiceNo"]]
    return [row for row in rows if row["CustomerID"] is not None and row["StockCode"][:1].isdigit()]


def choose_customers(rows: Iterable[Row], rng: random.Random) -> set[float]:
    """A random set of `RETAIL_CUSTOMERS` customers with 1 to `MAX_RETAIL_LINES` purchase lines."""
    lines = Counter(row["CustomerID"] for row in rows if not row["InvoiceNo"].startswith("C"))
    eligible = sorted(customer for customer, count in lines.items() if count <= MAX_RETAIL_LINES)
    return set(rng.sample(eligible, RETAIL_CUSTOMERS))


def retail_events(rows: Iterable[Row]) -> Iterator[Row]:
    """One event a line: `purchase`, or `refund` (quantity negative, as published) for a cancelled invoice."""
    for row in rows:
        invoice = row["InvoiceNo"]
        yield {
            "event_id": f"or-{invoice}-{row['line']}",
            "user_id": f"or-{row['CustomerID']:.0f}",
            "type": "refund" if invoice.startswith("C") else "purchase",
            "ts": millis(row["InvoiceDate"]),
            "channel": "web",
            "item_id": row["StockCode"],
            "price": row["UnitPrice"],
            "quantity": float(row["Quantity"]),
            "currency": "GBP",
            "session_id": invoice,
        }


class Journey:
    """The Complete Journey tables that the sample uses, of households that were exposed while the record ran.

    Campaigns that began before the record did are left out with their redemptions: part of their outcome was never
    recorded.
    """

    def __init__(self, data: Path, rng: random.Random) -> None:
        folder = data / "events" / "complete_journey"
        self.products = {row["product_id"]: row for row in read(folder / "products.parquet")}
        self.starts: dict[str, date] = {
            row["campaign_id"]: row["start_date"]
            for row in read(folder / "campaign_descriptions.parquet")
            if row["start_date"] >= JOURNEY_BEGINS
        }
        exposures = [row for row in read(folder / "campaigns.parquet") if row["campaign_id"] in self.starts]
        lines = [row for row in read(folder / "transactions_sample.parquet") if self._is_goods(row)]
        redemptions = [row for row in read(folder / "coupon_redemptions.parquet") if row["campaign_id"] in self.starts]
        eligible = {row["household_id"] for row in exposures} & {row["household_id"] for row in lines}
        chosen = set(rng.sample(sorted(eligible), HOUSEHOLDS))
        self.exposures, self.lines, self.redemptions = (
            [row for row in rows if row["household_id"] in chosen] for rows in (exposures, lines, redemptions)
        )

    def _is_goods(self, row: Row) -> bool:
        product = self.products.get(row["product_id"])
        paid = row["quantity"] > 0 and row["sales_value"] > 0
        return paid and product is not None and product["product_category"] not in NOT_GOODS

    def category(self, product_id: str) -> str:
        """The product's category, or its department where it has none."""
        product = self.products[product_id]
        return str(product["product_category"] or product["department"])

    def purchases(self) -> Iterator[Row]:
        """One `purchase` a line; the price of one piece is what was paid for the line by its quantity."""
        for row in self.lines:
            yield {
                "event_id": f"cj-{row['basket_id']}-{row['product_id']}",
                "user_id": f"cj-{row['household_id']}",
                "type": "purchase",
                "ts": millis(row["transaction_timestamp"] - JOURNEY_SHIFT),
                "channel": "store",
                "item_id": row["product_id"],
                "category": self.category(row["product_id"]),
                "price": round(row["sales_value"] / row["quantity"], 4),
                "quantity": row["quantity"],
                "currency": "USD",
                "session_id": row["basket_id"],
            }

    def responses(self, rng: random.Random) -> Iterator[Row]:
        """Exposures and redemptions. The data has their days; their times of day follow a rule.

        An exposure is sent on the campaign's first day at 08:00 shop time plus a random part of two hours. A redemption
        takes the time of the household's last basket of that shop day if it lies after the exposure, else 18:00.
        """
        sent: dict[tuple[str, str], datetime] = {}
        for row in self.exposures:
            household, campaign = row["household_id"], row["campaign_id"]
            at = shop_day(self.starts[campaign]) + SENT_AT + rng.random() * SENT_WITHIN
            sent[household, campaign] = at
            yield response("campaign_exposure", f"ex-{campaign}-{household}", household, campaign, at)
        baskets: dict[tuple[str, date], list[datetime]] = defaultdict(list)
        for row in self.lines:
            at = row["transaction_timestamp"]
            baskets[row["household_id"], (at - STORE_TIME).date()].append(at)
        for row in self.redemptions:
            household, campaign, day = row["household_id"], row["campaign_id"], row["redemption_date"]
            after = [at for at in baskets[household, day] if at > sent[household, campaign]]
            at = max(after, default=shop_day(day) + REDEEMED_AT)
            name = f"cr-{campaign}-{household}-{day:%m%d}-{row['coupon_upc']}"
            yield response("coupon_redemption", name, household, campaign, at)


def response(kind: str, event_id: str, household: str, campaign: str, at: datetime) -> Row:
    """An event of a campaign; `at` is unshifted UTC."""
    return {
        "event_id": event_id,
        "user_id": f"cj-{household}",
        "type": kind,
        "ts": millis(at - JOURNEY_SHIFT),
        "channel": "mail" if kind == "campaign_exposure" else "store",
        "campaign_id": f"cj-{campaign}",
    }


def reviews(data: Path, events: Iterable[Row], rng: random.Random) -> Iterator[Row]:
    """One `review` for each UCI sentence: a random order's first line gets it, 1 to 14 days after the order.

    No order gets two. Orders of the log's last 14 days get none. The sentence's label is not read.
    """
    sentences = pq.read_table(data / "sentiment" / "texts.parquet", columns=["source", "text"])
    texts = sentences.filter(pc.starts_with(sentences["source"], "uci_"))["text"].to_pylist()
    orders: dict[tuple[str, str], Row] = {}
    for event in events:
        if event["type"] == "purchase":
            orders.setdefault((event["user_id"], event["session_id"]), event)
    first, last = (int(delay.total_seconds() * 1000) for delay in REVIEW_DELAY)
    end = max(event["ts"] for event in orders.values()) - last
    candidates = [event for event in orders.values() if event["ts"] <= end]
    for number, (order, text) in enumerate(zip(rng.sample(candidates, len(texts)), texts, strict=True), start=1):
        kept = {name: order[name] for name in ("user_id", "channel", "item_id", "category") if name in order}
        written = {"ts": order["ts"] + rng.randint(first, last), "content": text, "lang": "en"}
        yield {"event_id": f"rv-{number}", "type": "review"} | kept | written


def catalogue(retail: Iterable[Row], journey: Journey, sold: Iterable[str]) -> Iterator[Row]:
    """Title and category of every item sold: a retail item's most frequent description, a product's type."""
    names: dict[str, Counter[str]] = defaultdict(Counter)
    for row in retail:
        if row["Description"]:
            names[row["StockCode"]][row["Description"].strip()] += 1
    for item in sorted(sold):
        if item in names:
            yield {"item_id": item, "title": names[item].most_common(1)[0][0]}
        elif item in journey.products:
            category = journey.category(item)
            yield {"item_id": item, "title": journey.products[item]["product_type"] or category, "category": category}


def build(data: Path) -> tuple[pa.Table, pa.Table]:
    """The sample's events in event-time order (ties as published) and its catalogue.

    Raises `FileNotFoundError` when a source is missing from `data`.
    """
    rng = random.Random(SEED)
    retail = read_retail(data)
    customers = choose_customers(retail, rng)
    journey = Journey(data, rng)
    events = list(retail_events(row for row in retail if row["CustomerID"] in customers))
    events += [*journey.purchases(), *journey.responses(rng)]
    events.sort(key=lambda event: int(event["ts"]))
    events += list(reviews(data, events, rng))
    events.sort(key=lambda event: int(event["ts"]))
    sold = {event["item_id"] for event in events if "item_id" in event}
    items = list(catalogue(retail, journey, sold))
    return pa.Table.from_pylist(events, EVENTS), pa.Table.from_pylist(items, CATALOGUE)


def read(path: Path) -> list[Row]:
    """All rows of a Parquet file."""
    return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]


def shop_day(day: date) -> datetime:
    """The moment, in UTC, at which a shop's day begins."""
    return datetime.combine(day, time()) + STORE_TIME


def millis(moment: datetime) -> int:
    """Epoch milliseconds of a moment without a time zone, taken as UTC."""
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)


def main() -> None:
    """Write `sample.parquet` and `catalogue.parquet`."""
    parser = argparse.ArgumentParser(prog="python -m stream.sample.build", description=main.__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("NUDGE_DATA"), help="default: NUDGE_DATA")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    if options.data is None:
        parser.error("--data or NUDGE_DATA must name the folder with events/ and sentiment/")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in zip(("sample", "catalogue"), build(options.data), strict=True):
        path = options.out / f"{name}.parquet"
        pq.write_table(table, path, compression="zstd", compression_level=19)
        print(f"{path}: {table.num_rows} rows, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
