"""LightGBM, fitted again now and then on the newest rows: what a team would do that retrains on a schedule.

Needs the optional extra `trees`. Fitting is deterministic and on one thread, and a fitted model is plain text, so a
restored one goes on to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.outcomes.model import Sight
from models.outcomes.trees_scorer import LEAF, Tree, TreesScorer, TreesScoring

KEPT: Final = 50_000
"""Newest rows that are kept to be fitted on."""
FIRST: Final = 250
GROWTH: Final = 1.1
"""The first fit comes after this many rows, each later one after this many times the rows of the one before."""
ROUNDS: Final = 100
PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 20,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 1,
    "verbose": -1,
}


class ExtraMissing(ImportError):
    """LightGBM is not installed."""


class BoostingState(msgspec.Struct, frozen=True):
    """What a `Boosting` is restored from; `rows` are float64, each followed by label and weight."""

    columns: int
    categorical: tuple[int, ...]
    kept: int
    growth: float
    taught: int
    due: float
    counts: tuple[float, float]
    rows: bytes
    booster: str | None


class Boosting:
    """Gradient-boosted trees, refitted as the rows grow. Ke et al., "LightGBM", NeurIPS 2017."""

    def __init__(
        self, columns: int, categorical: Sequence[int] = (), *, kept: int = KEPT, growth: float = GROWTH
    ) -> None:
        """Learn from rows of `columns` floats, those in `categorical` being codes; raises ExtraMissing.

        The newest `kept` rows are fitted on, whenever there were `growth` times as many as at the last fit.
        """
        self._lightgbm = load()
        self.columns = columns
        self.categorical = tuple(categorical)
        self.taught = 0
        self._due = float(FIRST)
        self._growth = growth
        self._positive, self._weight = 0.5, 1.0
        self._rows: deque[tuple[float, ...]] = deque(maxlen=kept)
        self._booster: Any = None
        self._trees: tuple[Tree, ...] | None = None

    def see(self, row: Sequence[float]) -> Sight:
        """See `Model.see`."""
        return Sight(float(self.predict_batch(np.array([row], np.float64))[0]), ())

    def predict_batch(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, shape (n,), of `rows`, shape (n, columns); before the first fit the base rate."""
        if self._booster is None:
            return np.full(len(rows), self._positive / self._weight)
        return np.asarray(self._booster.predict(rows, num_threads=1), np.float64)

    def learn(self, row: Sequence[float], label: bool, weight: float = 1.0) -> None:
        """See `Model.learn`."""
        self._keep(row, label, weight)
        if self.taught >= self._due:
            self.fit()
            self._due = self.taught * self._growth

    def hold(self, rows: Iterable[tuple[Sequence[float], bool]]) -> None:
        """Take labelled rows in and fit on them once."""
        for row, label in rows:
            self._keep(row, label, 1.0)
        if self.taught:
            self.fit()

    def combine(self, sight: Sight, label: bool, weight: float = 1.0) -> None:
        """See `Model.combine`: there is nothing to combine."""

    def fit(self) -> None:
        """Fit on the rows kept, now."""
        table = np.array(self._rows)
        data = self._lightgbm.Dataset(table[:, :-2], table[:, -2], weight=table[:, -1])
        self._load(self._lightgbm.train(PARAMETERS, data, num_boost_round=ROUNDS).model_to_string())

    def scorer(self, names: Sequence[str], *, outcome: str = "", schema: str = "") -> TreesScorer | None:
        """A frozen copy of what was fitted last, for rows of the columns `names`; None before the first fit."""
        if self._booster is None:
            return None
        if self._trees is None:
            self._trees = tuple(_freeze(of["tree_structure"]) for of in self._booster.dump_model()["tree_info"])
        return TreesScorer(
            TreesScoring(
                outcome=outcome,
                schema=schema,
                names=tuple(names),
                link="sum",
                trees=self._trees,
                weights=(1.0,) * len(self._trees),
            )
        )

    def to_bytes(self) -> bytes:
        """See `Model.to_bytes`."""
        return msgspec.msgpack.encode(
            BoostingState(
                columns=self.columns,
                categorical=self.categorical,
                kept=self._rows.maxlen or KEPT,
                growth=self._growth,
                taught=self.taught,
                due=self._due,
                counts=(self._positive, self._weight),
                rows=np.array(self._rows, "<f8").tobytes(),
                booster=None if self._booster is None else self._booster.model_to_string(),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Boosting:
        """The model that wrote `data`; raises msgspec.DecodeError or ValueError for other bytes, and ExtraMissing."""
        state = msgspec.msgpack.decode(data, type=BoostingState)
        model = cls(state.columns, state.categorical, kept=state.kept, growth=state.growth)
        model.taught, model._due = state.taught, state.due
        model._positive, model._weight = state.counts
        model._rows.extend(map(tuple, np.frombuffer(state.rows, "<f8").reshape(-1, state.columns + 2).tolist()))
        if state.booster is not None:
            model._load(state.booster)
        return model

    def _keep(self, row: Sequence[float], label: bool, weight: float) -> None:
        self._rows.append((*row, float(label), weight))
        self._positive += weight * label
        self._weight += weight
        self.taught += 1

    def _load(self, text: str) -> None:
        # Always from text, so that a restored model has not been through more hands than the one that goes on.
        self._booster = self._lightgbm.Booster(model_str=text)
        self._trees = None


def _freeze(root: dict[str, Any]) -> Tree:
    nodes, parts = [root], []
    for node in nodes:
        if "left_child" in node:
            parts.append((
                node["split_feature"], node["threshold"], len(nodes), len(nodes) + 1, node["internal_value"]
            ))  # fmt: skip
            nodes += (node["left_child"], node["right_child"])
        else:
            parts.append((LEAF, 0.0, 0, 0, node["leaf_value"]))
    return Tree(*zip(*parts, strict=True))


def load() -> Any:
    """The library; raises ExtraMissing, which says how to install it."""
    try:
        return import_module("lightgbm")
    except (ImportError, OSError) as error:
        # The library is there and the system's OpenMP, which it needs, is not: that is an OSError.
        raise ExtraMissing(
            f"no LightGBM ({error}): pip install 'nudge-stream[trees]', and libgomp1 on Linux"
        ) from error
