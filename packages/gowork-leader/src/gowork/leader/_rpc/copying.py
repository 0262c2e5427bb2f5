"""Takes a copy of another leader's store, for a leader that is new, too far behind, or can't use its store."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import grpc
import msgspec

from gowork.base.channels import open_channel
from gowork.leader._replication import announcement
from gowork.leader._replication.pins import pinned
from gowork.leader.log.protocol import Leader, Log, LogUnreachableError
from gowork.leader.store.protocol import LoggedStore, StoreError, StoreFormatError, StoreFullError
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

_log = logging.getLogger(__name__)

#: How long to wait before another attempt, in seconds, at first and at most.
AGAIN_SECONDS = 1.0
AGAIN_SECONDS_MAX = 60.0
#: How long the next part may take, in seconds.
PART_SECONDS = 60.0
#: What ends one attempt, and may not end the next one.
_PASSING = (grpc.aio.AioRpcError, TimeoutError, OSError, LogUnreachableError, StoreFormatError, StoreFullError)


class _NoCopy(Exception):
    """No copy was made. The message says why."""


async def take_copy(log: Log, store: LoggedStore) -> Path:
    """Puts a copy of the leader's store in the place of a closed store. It tries until that succeeds.

    The store is set aside when the copy is there whole, and not before. While the copy is under way the log keeps what
    comes after it.

    Returns:
        Where the store is now that was there before.

    Raises:
        StoreError: the store can't be set aside or made.
        LogRefusedError, GenerationError.
    """
    place = store.scratch
    if place is None:
        raise StoreError("this store can't be made from a copy")
    aside: Path | None = None
    wait = AGAIN_SECONDS
    while True:
        try:
            async with pinned(log):
                await _fetch(await _who_leads(log), place)
                if aside is None:
                    aside = await store.set_aside()
                await store.install_copy(place)
        except (_NoCopy, *_PASSING) as error:
            reason = (error.details() or error.code().name) if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning("no copy of the leader's store yet", extra={"reason": reason})
        else:
            return aside
        finally:
            # A part of a copy must not fill the disk until the next attempt.
            await asyncio.to_thread(place.unlink, missing_ok=True)
        await asyncio.sleep(wait)
        wait = min(2 * wait, AGAIN_SECONDS_MAX)


async def _who_leads(log: Log) -> Leader:
    """Returns the leader, and waits until there is one."""
    async with aclosing(log.leaders()) as leaders:
        async for leader in leaders:
            if leader is not None:
                return leader
    raise _NoCopy("nobody leads")


async def _fetch(leader: Leader, place: Path) -> None:
    try:
        address = announcement.decode(leader.announcement).scheduler
    except msgspec.MsgspecError as error:
        raise _NoCopy(f"the leader says of itself what this version can't read: {error}") from error
    written = total = 0
    async with open_channel([address]) as channel:
        call = scheduler_pb2_grpc.SchedulerServiceStub(channel).BackupStore(scheduler_pb2.BackupStoreRequest())
        with place.open("wb") as target:
            while True:
                async with asyncio.timeout(PART_SECONDS):
                    part = await call.read()
                if not isinstance(part, scheduler_pb2.BackupStoreResponse):
                    break
                await asyncio.to_thread(target.write, part.data)
                written, total = written + len(part.data), part.total_bytes
    if not total or written != total:
        raise _NoCopy(f"the copy has {written} bytes of {total}")
    _log.info("has a copy of the leader's store", extra={"address": address, "bytes": written})
