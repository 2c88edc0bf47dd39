"""The catalogue's contract: what an item may hold. How items are kept is tested on a real Redis."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.item import Item


def read(**fields: Any) -> Item:
    return msgspec.json.decode(msgspec.json.encode(fields), type=Item)


def test_an_item_needs_nothing_but_its_id() -> None:
    assert read(item_id="i1") == Item(item_id="i1")
    assert read(item_id="i1").available


def test_unknown_fields_are_passed_over() -> None:
    assert read(item_id="i1", colour="blue", stock={"a": [1]}) == Item(item_id="i1")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"item_id": ""},
        {"item_id": "x" * 257},
        {"item_id": 5},
        {"item_id": "i1", "title": "x" * 513},
        {"item_id": "i1", "category": "x" * 129},
        {"item_id": "i1", "currency": "EURO"},
        {"item_id": "i1", "price": "9.5"},
        {"item_id": "i1", "available": "no"},
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        read(**fields)
