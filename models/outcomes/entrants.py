"""Models that take part where it is asked for: judged beside the others on every label, and champion if they win.

River's trees and boosted trees cost many times what the others do, in time, in memory and in the size of snapshots, and
`make bench-learning` shows what they are worth. Each learns under the policy `wait`, from its newest rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

from models.outcomes.model import Model

Entrant = Literal["tree-wait", "forest-wait", "boosting-wait"]
ENTRANTS: Final[tuple[Entrant, ...]] = get_args(Entrant)

_KINDS: Final[Mapping[str, str]] = {"tree-wait": "hoeffding_adaptive_tree", "forest-wait": "adaptive_random_forest"}
_KEPT: Final[Mapping[str, int]] = {"tree-wait": 4_000, "forest-wait": 1_000, "boosting-wait": 5_000}
"""Newest rows that a model rests on: they travel with each snapshot, and a tree is made again by learning them."""


def make_entrant(name: str, columns: int, categorical: Sequence[int]) -> Model:
    """A fresh model for rows of `columns` floats, those in `categorical` being codes; raises `ExtraMissing`.

    >>> make_entrant("tree-wait", 2, ()).see((0.0, 1.0)).prediction
    0.5
    """
    # Loaded where they are asked for: they would cost every worker a second at its start.
    if name in _KINDS:
        from models.outcomes.challengers import Replayed

        return Replayed(_KINDS[name], columns, categorical, kept=_KEPT[name])
    from models.outcomes.boosting import Boosting

    return Boosting(columns, categorical, kept=_KEPT[name])


def restore_entrant(name: str, data: bytes) -> Model:
    """The model called `name` that wrote `data`; raises msgspec.DecodeError or ValueError, and `ExtraMissing`."""
    if name in _KINDS:
        from models.outcomes.challengers import Replayed

        return Replayed.from_bytes(data, kept=_KEPT[name])
    from models.outcomes.boosting import Boosting

    return Boosting.from_bytes(data)
