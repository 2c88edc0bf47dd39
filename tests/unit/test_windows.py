"""A window is named by what opened it, and only something else, later, in time and of the same campaign fulfils it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from models.outcomes.windows import Window, fulfils, name_window
from models.person import hash_session
from tests.unit.factories import NOON, event

HOUR = 3_600_000


def window(**fields: Any) -> Window:
    base: dict[str, Any] = {"kind": "outcome", "name": "conversion", "user_id": "u1", "event_id": "e1"}
    base |= {"opened_at": NOON, "deadline": NOON + HOUR}
    return Window(id=name_window("u1", base["event_id"], "conversion"), **(base | fields))


def tell(opened: Window, session: str | None = None, **fields: Any) -> bool:
    moment = event().known_as("e2").at(NOON + 1).of_type("purchase").having(**fields).build()
    return fulfils(opened, moment, hash_session(session))


@pytest.mark.parametrize(("after", "wanted"), [(-1, False), (0, True), (1, True), (HOUR, True), (HOUR + 1, False)])
def test_both_ends_of_a_window_belong_to_it(after: int, wanted: bool) -> None:
    assert tell(window(), ts=NOON + after) == wanted


def test_what_opened_a_window_does_not_fulfil_it() -> None:
    assert not tell(window(), event_id="e1")


def test_another_session_is_asked_for_where_there_is_one() -> None:
    opened = window(session=hash_session("s1"))
    assert not tell(opened, session="s1")
    assert tell(opened, session="s2")
    assert tell(opened, session=None)
    assert tell(window(), session="s1")


def test_a_campaigns_window_asks_for_its_campaign() -> None:
    opened = window(campaign_id="c1")
    assert tell(opened, campaign_id="c1")
    assert not tell(opened, campaign_id="c2")
    assert not tell(opened)
    assert tell(window(), campaign_id="c2")


def test_a_name_depends_on_all_its_parts_and_their_borders() -> None:
    parts = [("u1", "e1", "a"), ("u1e", "1", "a"), ("u1", "e1a", ""), ("e1", "u1", "a"), ("u1", "e1", "b")]
    names = {name_window(*part) for part in parts}
    assert len(names) == len(parts)
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names)
    assert name_window(*parts[0]) == name_window(*parts[0])


def test_a_packed_window_comes_back_whole() -> None:
    opened = window(features=(0.1, -0.0, 5e-324), prediction=0.30000000000000004, model_version=2**53, fulfilled=True)
    packed = msgspec.msgpack.encode(opened)
    assert msgspec.msgpack.decode(packed, type=Window) == opened
