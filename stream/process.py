"""The worker's process: from settings to an engine at work, and to its end, within a grace, when it is told to stop."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import threading
from typing import Final

import uvloop

from stream.app import Engine
from stream.logs import configure_logging
from stream.settings import Settings

log = logging.getLogger(__name__)

JOIN_SECONDS: Final = 10.0
"""How long a worker that was told to stop while it joins its groups may take to have joined them."""

FINISH_SECONDS: Final = 15.0
"""How long a worker that was told to stop may take to finish what is in flight."""

LEAVE_SECONDS: Final = 4.0
"""How long it then waits for the servers to take note; the groups notice by their session time-outs otherwise."""


async def serve(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(settings)
    starting, stopping = asyncio.create_task(engine.start()), asyncio.create_task(stop.wait())
    await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
    if engine.joining:
        # Partitions may be at work before the start is done: what they do is finished in order.
        await asyncio.wait([starting], timeout=JOIN_SECONDS)
    # Before the groups are joined there is nothing that could be cut off.
    status = 1 if engine.joining else 0
    if starting.done():
        if (error := starting.exception()) is not None:
            _end_for_certain(error)
            raise error
        await stopping
        ended = await _stop(engine)
        if ended is None:
            return
        status = ended
    # Clients that wait for servers which are away can't be waited for.
    logging.shutdown()
    os._exit(status)


def _end_for_certain(error: BaseException) -> None:
    """See to it that a process which can't work ends, whatever of it would go on."""

    def end() -> None:
        log.critical("the worker can't start: %s", error)
        logging.shutdown()
        os._exit(1)

    timer = threading.Timer(LEAVE_SECONDS, end)
    timer.daemon = True
    timer.start()


async def _stop(engine: Engine) -> int | None:
    """Finish and leave; the status to end with, None where everything has ended in order."""
    try:
        if not await asyncio.wait_for(engine.finish(), FINISH_SECONDS):
            raise TimeoutError
    except TimeoutError:
        log.error("not all was finished within %g s; what was not committed is read again", FINISH_SECONDS)
        return 1
    try:
        await asyncio.wait_for(engine.leave(), LEAVE_SECONDS)
    except TimeoutError:
        log.warning("all is committed, but the groups were not left within %g s", LEAVE_SECONDS)
        return 0
    return None


def run_worker(settings: Settings) -> None:
    """Entry point of `nudge worker`: blocks until the worker is told to stop."""
    configure_logging(settings.log_level)
    # C code that fails ends the process without a word otherwise.
    faulthandler.enable()
    # Nearly all that a batch makes is free of cycles; what is loaded by now stays for ever.
    gc.set_threshold(200_000, 20, 50)
    gc.collect()
    gc.freeze()
    uvloop.run(serve(settings))
