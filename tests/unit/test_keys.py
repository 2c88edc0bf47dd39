"""The table of what lies in Redis, compared with what is written there."""

from __future__ import annotations

from stream.delivery.fence import Fence
from stream.state import keys


def test_the_table_names_every_field_of_the_fence() -> None:
    table = keys.__doc__ or ""
    row = table.partition("| `fence:{p7}` |")[2].partition("\n| `")[0]
    assert [field for field in Fence.__struct_fields__ if f"`{field}`" not in row] == []
