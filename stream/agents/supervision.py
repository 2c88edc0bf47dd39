"""How agents are brought back after they raised: always."""

from __future__ import annotations

from typing import Any

from mode.supervisors import OneForOneSupervisor


class PersistentSupervisor(OneForOneSupervisor):  # type: ignore[misc]
    """Restarts a crashed actor however often it crashes, at most a hundred times a second.

    The stock one gives up when two crashes come close together: its rate limit begins empty, and beyond it the
    supervisor ends, in silence, while the worker lives on without that agent.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"raises": None})
