"""How well outcomes are learned: real tables row by row, and real orders and coupons with labels that come late.

Every row is scored before its label is learned, and figures are over the last 70 % of rows. Where labels are late a
model knows, at an exposure, only what had happened by then. Prints a table and, as its last line, one JSON object:
data set -> model or policy -> figures, and `pace`: what learning and scoring cost. Reads the folder that NUDGE_DATA
names.
"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq

from models.outcomes.boosting import Boosting, ExtraMissing, load
from models.outcomes.challengers import KINDS, Replayed
from models.outcomes.contest import Contest, Contestant
from models.outcomes.evaluation import Evaluation
from models.outcomes.f4 import F4
from models.outcomes.f4_trees import F4Trees
from models.outcomes.model import Model
from models.outcomes.policies import POLICIES, FakeNegativeWeighting, Immediate, Wait
from schemas.example import Example, Stage
from tests.benchmarks.orders import DAY, read_orders, replay, rows_of
from tests.benchmarks.pace import measure

JUDGED: Final = 0.7
"""Part of the rows, the last of them, that figures are of."""
WEEK: Final = 7 * DAY
HOME: Final = ("age", "income", "home_ownership", "household_size", "kids_count")
Row = tuple[float, ...]
Figures = dict[str, float]
Move = tuple[int, int, Stage, int, int]
"""(time, rank within it, stage, number of the row, label)."""


class Case(NamedTuple):
    """Rows in the order of their exposure, their final labels, which columns are codes, and what happens when.

    `moves` is empty where each label comes at once. A row without a label is still open at the end.
    """

    rows: list[Row]
    labels: list[int | None]
    categorical: tuple[int, ...]
    moves: list[Move]


def code(text: str) -> float:
    """A category as a float."""
    return float(zlib.crc32(text.encode()))


def elec2(root: Path) -> Case:
    """Does the price of electricity go up? Half-hours of 1996 to 1998; drifts."""
    table = pq.read_table(root / "elec2.parquet")
    columns = [table[name].to_pylist() for name in table.column_names if name != "class"]
    return Case(list(zip(*columns, strict=True)), table["class"].to_pylist(), (), [])


def telco(root: Path) -> Case:
    """Does a telephone customer leave?"""
    table = pyarrow.csv.read_csv(root / "campaigns" / "telco_churn.csv")
    names = [name for name in table.column_names if name not in ("customerID", "TotalCharges", "Churn")]
    columns = [table[name].to_pylist() for name in names]
    texts = tuple(place for place, column in enumerate(columns) if isinstance(column[0], str))
    coded = [list(map(code, column)) if place in texts else column for place, column in enumerate(columns)]
    coded.append([float(text) if text.strip() else 0.0 for text in table["TotalCharges"].to_pylist()])
    labels = [int(text == "Yes") for text in table["Churn"].to_pylist()]
    return Case([tuple(map(float, row)) for row in zip(*coded, strict=True)], labels, texts, [])


def online_retail(root: Path, days: int) -> Case:
    """Does a customer of a web shop order again within so many days? One row an order."""
    orders = read_orders(root / "events" / "online_retail.parquet")
    return _delayed(rows_of(orders), (), list(replay(orders, days * DAY)))


def complete_journey(root: Path) -> Case:
    """Does a household redeem a coupon of a campaign that it was sent? One row a household and campaign."""
    folder = root / "events" / "complete_journey"
    read = {path.stem: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}
    campaigns = {
        of["campaign_id"]: (_midnight(of["start_date"]), _midnight(of["end_date"]) + DAY, of["campaign_type"])
        for of in read["campaign_descriptions"]
    }
    sent = sorted((campaigns[of["campaign_id"]][0], of["campaign_id"], of["household_id"]) for of in read["campaigns"])
    redeemed = _by_household((of["household_id"], _midnight(of["redemption_date"]), of["campaign_id"])
                             for of in read["coupon_redemptions"])  # fmt: skip
    bought = _by_household(
        (of["household_id"], _millis(of["transaction_timestamp"]), of["sales_value"], of["coupon_disc"] > 0)
        for of in read["transactions_sample"]
    )
    homes = {of["household_id"]: of for of in read["demographics"]}
    coupons, sizes = defaultdict(int), defaultdict(int)
    for of in read["coupons"]:
        coupons[of["campaign_id"]] += 1
    for _, campaign, _ in sent:
        sizes[campaign] += 1
    received: defaultdict[str, list[int]] = defaultdict(list)
    rows, moves = [], []
    for number, (start, campaign, household) in enumerate(sent):
        _, end, kind = campaigns[campaign]
        home = homes.get(household, {})
        rows.append((
            code(kind), (end - start) / DAY, np.log1p(coupons[campaign]), np.log1p(sizes[campaign]),
            *_past([at for at, *_ in redeemed[household] if at < start], start),
            *_past([at for at, *_ in bought[household] if at < start], start),
            np.log1p(sum(value for at, value, _ in bought[household] if at < start)),
            float(sum(used for at, _, used in bought[household] if at < start)),
            *_past(received[household], start), start / DAY % 365.0,
            *(code(str(home.get(name))) for name in HOME),
        ))  # fmt: skip
        received[household].append(start)
        used = [at for at, of in redeemed[household] if of == campaign and start <= at < end]
        moves.append((start, 2, "exposed", number, 0))
        if used:
            moves.append((min(used), 1, "fulfilled", number, 1))
        moves.append((end, 0, "matured", number, int(bool(used))))
    width = len(rows[0])
    return _delayed([tuple(map(float, row)) for row in rows], (0, *range(width - len(HOME), width)), sorted(moves))


def _delayed(rows: list[Row], categorical: tuple[int, ...], moves: list[Move]) -> Case:
    labels: list[int | None] = [None] * len(rows)
    for _, _, stage, number, label in moves:
        if stage == "matured":
            labels[number] = label
    return Case(rows, labels, categorical, moves)


def _past(times: Sequence[int], now: int) -> tuple[float, float, float]:
    """Count, count decayed by half in four weeks, and days since the last of `times`."""
    decayed = sum(2.0 ** ((at - now) / (4 * WEEK)) for at in times)
    return float(np.log1p(len(times))), decayed, float(np.log1p((now - max(times)) / DAY)) if times else -1.0


def _by_household(records: Iterable[tuple[Any, ...]]) -> defaultdict[str, list[tuple[Any, ...]]]:
    found: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for household, *rest in records:
        found[household].append(tuple(rest))
    return found


def _midnight(day: date) -> int:
    return _millis(datetime.combine(day, clock()))


def _millis(moment: datetime) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)


def run_table(case: Case, model: Model) -> tuple[list[float | None], float]:
    """What `model` said of each row just before it learned it, and the CPU seconds that took."""
    said: list[float | None] = []
    begun = time.process_time()
    for row, label in zip(case.rows, case.labels, strict=True):
        if label is None:
            said.append(None)
            continue
        sight = model.see(row)
        model.combine(sight, label == 1)
        model.learn(row, label == 1)
        said.append(sight.prediction)
    return said, time.process_time() - begun


def run_delayed(case: Case, model: Model, policy: str) -> tuple[list[float | None], float]:
    """The same under a label policy: what was said of each row at its exposure."""
    contest = Contest([Contestant(policy, model, POLICIES[policy])])
    said: list[float | None] = [None] * len(case.rows)
    exposed = {number: at for at, _, stage, number, _ in case.moves if stage == "exposed"}
    examples = [_example(case, exposed[number], stage, number, label) for _, _, stage, number, label in case.moves]
    begun = time.process_time()
    for example in examples:
        predictions = contest.take(example)
        if predictions is not None:
            said[example.offset] = predictions[0]
    return said, time.process_time() - begun


def run_boosting(case: Case) -> tuple[list[float | None], float]:
    """LightGBM, fitted at every tenth of the rows on all whose label had matured by then."""
    said: list[float | None] = []
    begun = time.process_time()
    exposed = {number: at for at, _, stage, number, _ in case.moves if stage == "exposed"}
    matured = {number: at for at, _, stage, number, _ in case.moves if stage == "matured"}
    total = len(case.rows)
    for tenth in range(10):
        start, stop = total * tenth // 10, total * (tenth + 1) // 10
        model = Boosting(len(case.rows[0]), case.categorical, kept=total, growth=float("inf"))
        model.hold(
            [
                (row, label == 1)
                for number, (row, label) in enumerate(zip(case.rows[:start], case.labels[:start], strict=True))
                if label is not None and (not case.moves or matured[number] <= exposed[start])
            ]
        )
        said += model.predict_batch(np.array(case.rows[start:stop])).tolist()
    return said, time.process_time() - begun


def _example(case: Case, exposed_at: int, stage: Stage, number: int, label: int) -> Example:
    return Example(
        example_id=str(number),
        outcome="benchmark",
        stage=stage,
        label=label,
        partition=0,
        offset=number,
        index=0,
        exposed_at=exposed_at,
        features=case.rows[number],
        schema="benchmark",
    )


def judge(case: Case, said: Sequence[float | None], seconds: float) -> Figures:
    """The figures of what was `said` of the rows, over the last 70 % of those with a label."""
    known = [(p, label) for p, label in zip(said, case.labels, strict=True) if label is not None]
    judged = [(p, label) for p, label in known[round(len(known) * (1.0 - JUDGED)) :] if p is not None]
    evaluation = Evaluation(window=len(judged))
    for prediction, label in judged:
        evaluation.add(prediction, label)
    metrics = evaluation.metrics()
    names = ("log_loss", "base_log_loss", "calibration_ratio", "ece", "roc_auc")
    figures = {name: round(metrics[f"window_{name}"], 4) for name in names}
    return {**figures, "rows": len(judged), "rows_per_second": round(len(known) / seconds)}


def contenders(case: Case) -> Iterator[tuple[str, Callable[[], tuple[list[float | None], float]]]]:
    """What is run on a case: its name in the result, and how."""
    columns, categorical = len(case.rows[0]), case.categorical
    boosted = True
    try:
        load()
    except ExtraMissing as missing:
        boosted = False
        print(f"without LightGBM: {missing}", file=sys.stderr)
    if case.moves:
        yield "oracle", lambda: run_table(case, F4(columns, categorical))
        for name, policy in (("wait", Wait.name), ("fnw", FakeNegativeWeighting.name), ("immediate", Immediate.name)):
            yield name, lambda policy=policy: run_delayed(case, F4(columns, categorical), policy)
        yield (
            "logistic_regression",
            lambda: run_delayed(case, Replayed("logistic_regression", columns, categorical), Wait.name),
        )
    else:
        yield "f4", lambda: run_table(case, F4(columns, categorical, remembers=True))
        yield "f4_without_memory", lambda: run_table(case, F4(columns, categorical))
        yield "f4_trees", lambda: run_table(case, with_trees(columns, categorical, boosted=boosted))
        for kind in KINDS:
            yield kind, lambda kind=kind: run_table(case, Replayed(kind, columns, categorical))
    if boosted:
        yield "lightgbm_every_10", lambda: run_boosting(case)


def with_trees(columns: int, categorical: Sequence[int], *, boosted: bool) -> F4Trees:
    """F4 and LightGBM, or River's forest where that is not installed, in one stack."""
    trees: Model = (
        Boosting(columns, categorical) if boosted else Replayed("adaptive_random_forest", columns, categorical)
    )
    return F4Trees(F4(columns, categorical, remembers=True), {"trees": trees})


CASES: Final[dict[str, Callable[[Path], Case]]] = {
    "elec2": elec2,
    "telco": telco,
    "online_retail_7d": lambda root: online_retail(root, 7),
    "online_retail_30d": lambda root: online_retail(root, 30),
    "complete_journey": complete_journey,
}


def main(names: Sequence[str]) -> int:
    """Run the data sets called `names`, all by default; print the table and the JSON line; the exit status."""
    root = os.environ.get("NUDGE_DATA")
    if not root:
        reason = "NUDGE_DATA is unset: it names the folder with the data sets"
        print(f"skipped: {reason}", file=sys.stderr)
        print(json.dumps({"skipped": reason}))
        return 0
    results: dict[str, dict[str, Figures]] = {}
    print(f"{'data set':<18} {'model or policy':<24} log-loss (base)    ratio  ECE    AUC    rows    rows/s")
    for name in names or CASES:
        case = CASES[name](Path(root))
        for model, play in contenders(case):
            of = judge(case, *play())
            results.setdefault(name, {})[model] = of
            print(
                f"{name:<18} {model:<24} {of['log_loss']:.4f} ({of['base_log_loss']:.4f})  "
                f"{of['calibration_ratio']:.3f}  {of['ece']:.3f}  {of['roc_auc']:.3f}  {of['rows']:>6}  "
                f"{of['rows_per_second']:>7}",
                flush=True,
            )
    if not names:
        results["pace"] = measure()
        for who, of in results["pace"].items():
            print(f"pace: {who:<26} " + ", ".join(f"{value:,} {name}" for name, value in of.items()))
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
