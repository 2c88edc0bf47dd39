"""`nudge profile USER`: what Redis holds about one person, found without the caller knowing the partition.

Only the readable fields of `schemas.profile` are shown, never nudge's own (`_0`, `_1`, ...). Beside them stand the
number of open outcome windows and the consent that was recorded.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from stream.commands import CommandError
from stream.commands.connections import open_redis
from stream.commands.output import print_json, print_table, write_time
from stream.partition import find_partition
from stream.settings import Settings
from stream.state.keys import name_key, tag_events
from stream.state.partition import read_partitions
from stream.state.profiles import read_profile

TIMES: Final = frozenset({"first_seen", "last_seen"})


class Person(msgspec.Struct, frozen=True):
    """What is kept about one person; `consent` by purpose, empty where nothing was recorded."""

    user_id: str
    partition: int
    open_windows: int
    consent: dict[str, bool]
    profile: dict[str, Any]


async def read_person(redis: Redis, user_id: str) -> Person:
    """What Redis holds about `user_id`. Raises `CommandError` when there is no profile."""
    layout = await read_partitions(redis)
    if layout is None:
        raise CommandError("no state in this Redis yet: start a worker on it, or correct redis.url")
    partition = find_partition(user_id, *layout)
    tag = tag_events(partition)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(name_key("profile", tag, user_id))
        pipe.hlen(name_key("pending", tag, user_id))
        pipe.hgetall(name_key("consent", tag, user_id))
        fields, windows, consents = await pipe.execute()
    consent = {
        purpose.decode(): value == b"1" for purpose, value in consents.items() if purpose[:1] not in (b"@", b"~")
    }
    profile = read_profile([part for pair in fields.items() for part in pair])
    if profile is None:
        recorded = f"consent is recorded: {write_consent(consent)}" if consent else "no consent is recorded either"
        raise CommandError(f"no profile of this user (partition {partition}; {recorded})")
    return Person(user_id, partition, windows, consent, msgspec.to_builtins(profile))


def write_consent(consent: dict[str, bool]) -> str:
    """Consent in words.

    >>> write_consent({"marketing": False, "personalisation": True})
    'marketing withdrawn, personalisation granted'
    """
    return ", ".join(f"{purpose} {'granted' if given else 'withdrawn'}" for purpose, given in sorted(consent.items()))


def _write(name: str, value: object) -> str:
    if name in TIMES and isinstance(value, int):
        return f"{write_time(value)} ({value})"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


async def show_profile(settings: Settings, user_id: str, *, as_json: bool = False) -> None:
    """Print what is kept about `user_id`. Raises `CommandError` when that is nothing."""
    async with open_redis(settings) as redis:
        person = await read_person(redis, user_id)
    if as_json:
        print_json(msgspec.to_builtins(person))
        return
    rows = [(name, _write(name, value)) for name, value in person.profile.items()]
    rows += [("open windows", str(person.open_windows)), ("consent", write_consent(person.consent) or "none recorded")]
    print_table(("field", "value"), [("user", user_id), ("partition", str(person.partition)), *rows])
