"""The life of the leader's process: it restores, serves, tells of itself, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import cast

import msgspec

from gowork.base.beginnings import EXIT_INTERRUPTED, give_up_standard_output
from gowork.base.local_listener import LocalListener
from gowork.base.service_manager import ServiceManager
from gowork.leader._app.leader import Leader
from gowork.leader._app.node import Addresses
from gowork.leader._replication import generations
from gowork.leader.log.protocol import Log
from gowork.leader.store.protocol import LoggedStore, Store

_log = logging.getLogger(__name__)


async def run(
    leader: Leader,
    manager: ServiceManager,
    restoring: Callable[[], Awaitable[None]] | None,
    shown_store: str | None,
) -> None:
    """Restores and serves, and tells the service manager of both. A restore may take longer than a start should.

    Args:
        leader: what is run.
        manager: is told how the leader is.
        restoring: makes the store from a backup; None: nothing is to be made.
        shown_store: printed with the addresses when it serves; None: nothing is printed.
    """
    stopped = asyncio.Event()
    is_restoring = restoring is not None

    def ready() -> tuple[bool, str]:
        return (False, "makes the store from the backup") if is_restoring else leader.ready()

    async with manager.telling(ready, stopped.is_set):
        if restoring is not None:
            await restoring()
            is_restoring = False
        await _serve(leader, stopped, shown_store)


async def _serve(leader: Leader, stopped: asyncio.Event, shown_store: str | None) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopped.is_set():
            # An operator who asks twice does not want to wait. All that was acknowledged is in the store.
            _log.warning("ended at once, because it was asked to stop again")
            logging.shutdown()
            os._exit(EXIT_INTERRUPTED)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    started: asyncio.Future[Addresses] = loop.create_future()
    started.add_done_callback(_spare_collector)
    if shown_store is not None:
        started.add_done_callback(partial(_print_addresses, shown_store))
    with LocalListener("leader", leader.name, leader.ready, loop):
        await leader.run(started, stopped)


def _spare_collector(_: object) -> None:
    # Objects that exist by now stay for good, and tasks make no cycles. To look at either costs a twentieth of the time
    # that a task takes, for nothing.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _print_addresses(store: str, started: asyncio.Future[Addresses]) -> None:
    if started.cancelled():
        return
    try:
        shown = {**msgspec.structs.asdict(started.result()), "store": store}
        sys.stdout.write(msgspec.json.encode(shown).decode() + "\n")
        sys.stdout.flush()
    except (OSError, AttributeError) as error:
        # Standard output is full or closed, or there is none. The addresses are in the log, too.
        _log.error("addresses can't be printed on standard output", extra={"reason": str(error)})
        if sys.stdout is not None:
            give_up_standard_output()


async def restore(store: Store, backup: Path, log: Log | None) -> None:
    """Makes the store from the backup. With a log that has begun, it begins a generation of the log.

    Raises:
        StoreError, LogError, ChainError, NewerFormatError: it was not restored, or not wholly. The message says which.
    """
    if log is None:
        await store.restore(backup)
        return
    try:
        await log.open()
        generation = await generations.restore(log, cast(LoggedStore, store), backup)
    finally:
        await log.close()
    if generation is not None:
        _log.warning(
            "log begins anew with a backup",
            extra={"generation": generation.id, "replaces": generation.replaces, "backup": str(backup)},
        )
