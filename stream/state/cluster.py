"""A Redis Cluster behind the same client interface: each partition's keys lie in one slot, on one of its nodes.

Nothing is tried again in here, as in the client of a single server, except that a command goes to the node that a
refusal names. While a slot is moved from node to node, scripts on it are refused as a whole.
"""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})


class Cluster(RedisCluster):
    """The client of a cluster; every failure is a `RedisError`, and is seen."""

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Run one command on the node that its keys are on; a scan of one tag's keys on that tag's."""
        try:
            if arguments[0] in SCRIPTS:
                arguments = name_absent(arguments)
            elif arguments[0] == "SCAN" and arguments[2:3] == ("MATCH",):
                await self.initialize()
                # Told which node to ask, the client would answer with a cursor for each of several.
                node = self.get_node_from_key(arguments[3])
                assert node is not None
                return await node.execute_command(*arguments)
            return await super().execute_command(*arguments, **options)
        except RedisClusterException as error:
            # That no node answers, or that a slot is nobody's, is an outage like any other.
            raise RedisConnectionError(str(error)) from error

    async def find_primaries(self) -> list[ClusterNode]:
        """Every node that holds state."""
        try:
            await self.initialize()
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self.get_primaries()


def name_absent(script: tuple[Any, ...]) -> tuple[Any, ...]:
    """A call of a script that names one key more of its slot, which never exists.

    A script touches keys that it does not name, and while some of them are on one node and some on another it would
    end half-way. Of a key that is not there Redis can't know on which node it is, so it refuses the call before it
    begins, until the slot is one node's again.

    >>> name_absent(("EVALSHA", "1f", 1, "fence:{p7}", 42))
    ('EVALSHA', '1f', 2, 'fence:{p7}', 'absent:{p7}', 42)
    """
    name, script_id, number, *rest = script
    first = rest[0].decode() if isinstance(rest[0], bytes) else rest[0]
    tag = first[first.index("{") : first.index("}") + 1]
    return (name, script_id, number + 1, *rest[:number], f"absent:{tag}", *rest[number:])
