"""Columns of cells as columns of floats, as outcomes are learned from.

A column whose cells are all numbers stays one; another becomes codes of categories. Where a number is missing its place
is taken by the mean of those before it, which is all that was known then, and a column beside it says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from models.outcomes.classifier import encode

Cell = float | str | None
"""A value as it was read; None for none."""


class Encoded(NamedTuple):
    """Columns of floats by name, the places of those that are codes, and how many cells were missing, by name."""

    features: dict[str, list[float]]
    categorical: tuple[int, ...]
    missing: dict[str, int]


def encode_columns(columns: Mapping[str, Sequence[Cell]]) -> Encoded:
    """Columns by name, their cells in the order in which the rows became known.

    >>> encode_columns({"age": ["20", None, "40"], "plan": ["a", "b", None]}).features["age"]
    [20.0, 20.0, 40.0]
    >>> encode_columns({"age": ["20", None, "40"], "plan": ["a", "b", None]})[1:]
    ((2,), {'age': 1, 'plan': 1})
    """
    features: dict[str, list[float]] = {}
    categorical: list[int] = []
    missing: dict[str, int] = {}
    for name, cells in columns.items():
        numbers = [read_number(cell) for cell in cells]
        absent = [cell is None for cell in cells]
        if any(absent):
            missing[name] = sum(absent)
        if any(number is None and not gone for number, gone in zip(numbers, absent, strict=True)):
            categorical.append(len(features))
            features[name] = [encode("" if cell is None else cell, True) for cell in cells]
            continue
        features[name] = _fill(numbers)
        if any(absent):
            features[f"{name} missing"] = list(map(float, absent))
    return Encoded(features, tuple(categorical), missing)


def read_number(cell: Cell) -> float | None:
    """The cell as a finite number; None where it is none.

    >>> read_number("-1.5e3"), read_number("12a"), read_number("inf")
    (-1500.0, None, None)
    """
    try:
        number = math.nan if cell is None else float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _fill(numbers: Sequence[float | None]) -> list[float]:
    filled: list[float] = []
    total, known = 0.0, 0
    for number in numbers:
        if number is None:
            filled.append(total / known if known else 0.0)
            continue
        filled.append(number)
        total, known = total + number, known + 1
    return filled
