"""Where memory is: a process' own, and that of a Redis, key family by key family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from redis import Redis

KEYS_AT_A_TIME: Final = 1_000


def read_resident(pid: int) -> int:
    """Bytes of physical memory that a process holds, from /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def divide_redis(redis: Redis) -> dict[str, Any]:
    """What each key family holds, in bytes with the names of its keys, beside what Redis says it uses in all.

    `families` has `keys`, `bytes` and `bytes_per_key` by the first part of the key. `server` is what an empty Redis
    uses, with its clients and scripts; `tables` are the hash tables that the keys hang in. `rest` is what none of
    these explains: a share of `used` between 0 and 1, below 0 where they overlap.
    """
    keys: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for batch in _take_batches(redis):
        with redis.pipeline(transaction=False) as pipe:
            for key in batch:
                # All of a collection's elements, not a sample of them.
                pipe.memory_usage(key, samples=0)
            for key, size in zip(batch, pipe.execute(), strict=True):
                family = key.partition(":")[0]
                keys[family] += 1
                sizes[family] += size or 0
    stats: Any = redis.memory_stats()
    used = stats["total.allocated"]
    server = stats["startup.allocated"] + stats["clients.normal"] + stats["lua.caches"] + stats["functions.caches"]
    tables = stats["overhead.db.hashtable.lut"]
    return {
        "used": used,
        "server": server,
        "tables": tables,
        "families": {
            family: {"keys": keys[family], "bytes": size, "bytes_per_key": round(size / keys[family])}
            for family, size in sizes.most_common()
        },
        "rest": round((used - server - tables - sizes.total()) / used, 4),
    }


def _take_batches(redis: Redis) -> Iterator[list[str]]:
    found = redis.scan_iter(count=KEYS_AT_A_TIME)
    while batch := list(islice(found, KEYS_AT_A_TIME)):
        yield batch
