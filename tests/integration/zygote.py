"""What the process that programs are forked from has done beforehand, so that none of them needs to; see `program`.

Besides what is imported here that is: to know where each module's source lies, for which Faust asks for every agent,
and to have nothing of all this looked at by the collector of a fork, which copies each page that it looks at.
"""

from __future__ import annotations

import gc
import inspect

# What Faust imports by name when an app is first asked for it.
import faust.app.router
import faust.assignor.leader_assignor
import faust.fixups.django
import faust.tables.manager
import faust.topics
import faust.transport.drivers.aiokafka
import faust.worker  # noqa: F401
import typer  # noqa: F401

import stream.process  # noqa: F401
import tests.integration.program  # noqa: F401

inspect.getmodule(inspect.currentframe())
gc.collect()
gc.freeze()
