"""Names of everything nudge keeps in Redis.

All keys of one source partition share a hash tag, `{p7}` for partition 7 of the events topic, so that one script may
touch them all, on Redis Cluster too. `{privacy0}` and `{examples0}` are the tags of the other two sources.

| key | type | what |
|---|---|---|
| `nudge` | hash | `partitions`, `partitioner`: what the events topic was when state was first written |
| `fence:{p7}` | hash | `owner`, `epoch`, `next`, `clock`, `watermark`, `last_hash`, `emitted`, `generation`, `began`,
`form`; `clearing` while what an older fence left behind is deleted; `reached`, `<generation>/<position>`, under
exactly_once |
| `attempts:{p7}` | hash | token of a process -> `<from> <to>` of the batch that it began and neither committed nor gave
up; `suspect` -> offset up to which something ends processes |
| `crashes:{p7}` | list | numbers (of all events done in the partition, from 0) of the last that were dead-lettered as
`crash` |
| `generation:{p7}` | string | the fence's `generation` if it is not 0, for a fence that gets lost |
| `counts:{p7}` | hash | events by result; counted in the commit, so each once |
| `outbox:{p7}` | stream | entries for Kafka; the id is the position `<source offset>-<index>`, the index from 1 |
| `parked:{p7}` | stream | outbox entries that the broker refused for good, and dead letters of the ledger; `error`
says why. In later generations the offset in the id is higher by 10^12 for each. Below one
that was parked before, the id is Redis' own and the field `position` holds that place |
| `replayed:{p7}` | set | where records that were sent back from the dead letters, and applied, were read first. It is
never trimmed: some 100 bytes for each such record |
| `due:{p7}` | sorted set | open windows by deadline (ms); member `<window id> <user>` |
| `profile:{p7}:<user>` | hash | the profile: `schemas.profile` and private `_0`, `_1`, ... |
| `pending:{p7}:<user>` | hash | open windows by id, packed |
| `consent:{p7}:<user>` | hash | purpose -> `1` or `0`; `~<purpose>` -> when that was decided (ms);
`@<ledger partition>` -> last place in the ledger applied: `<offset>`, or `<generation>/<offset>` |
| `snapshots:{examples0}` | hash | model -> newest version: the offset of the last example learned, 10^12 higher for
each generation |
| `snapshots:{examples0}:<model>` | sorted set | versions kept; score is the wall time (ms) of publication |
| `snapshot:{examples0}:<model>:<version>` | string | signed snapshot |
| `pins:{examples0}` | hash | model -> version that an operator pinned it at |
| `promoted:{examples0}` | hash | model -> contestant that an operator made its champion |
| `promotions:{examples0}:<model>` | sorted set | `<version> <contestant>`, the contestant empty where the evidence
decides; score is the version from which on that was published |
| `imported:{examples0}:<model>` | set | versions that were brought in from elsewhere |
| `absent:{p7}` | none | never there: every script on a cluster names it, see `stream/state/cluster.py` |
| `seat:<name>` | string | token of the process that goes by this name in its groups, for another to find |
| `item:<item id>` | hash | catalogue: `title`, `category`, ... |
"""

from __future__ import annotations

from typing import Final, NewType

Tag = NewType("Tag", str)
"""Hash tag of one source partition, braces included."""

ROOT: Final = "nudge"


def tag_events(partition: int) -> Tag:
    """Tag of a partition of the events topic.

    >>> tag_events(7)
    '{p7}'
    """
    return Tag(f"{{p{partition}}}")


def tag_source(source: str, partition: int) -> Tag:
    """Tag of a partition of a source: `events` (short: `p`), `privacy` or `examples`."""
    return tag_events(partition) if source == "events" else Tag(f"{{{source}{partition}}}")


def name_key(kind: str, tag: Tag, *rest: object) -> str:
    """Key of `kind` under `tag`.

    >>> name_key("profile", tag_events(7), "ann")
    'profile:{p7}:ann'
    """
    return ":".join([kind, tag, *map(str, rest)])
