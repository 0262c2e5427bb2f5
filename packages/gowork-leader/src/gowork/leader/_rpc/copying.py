"""Takes a copy of another leader's store, for a leader that is new or has fallen too far behind."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from pathlib import Path

import grpc
import msgspec

from gowork.base.channels import open_channel
from gowork.leader._replication import announcement
from gowork.leader.log.protocol import Leader, Log
from gowork.leader.store.protocol import LoggedStore, StoreError
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc

_log = logging.getLogger(__name__)

#: How long to wait before another attempt, in seconds.
AGAIN_SECONDS = 1.0
#: How long the next part may take, in seconds.
PART_SECONDS = 60.0


class _NoCopy(Exception):
    """No copy was made. The message says why."""


async def fetch_copy(log: Log, store: LoggedStore) -> None:
    """Makes the closed store from a copy of the leader's. It tries until that succeeds.

    Raises:
        StoreError: the store can't be made.
        LogUnreachableError, LogRefusedError.
    """
    place = store.scratch
    if place is None:
        raise StoreError("this store can't be made from a copy")
    while True:
        try:
            await _fetch(await _who_leads(log), place)
        except (_NoCopy, grpc.aio.AioRpcError, TimeoutError, OSError) as error:
            reason = (error.details() or error.code().name) if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.warning("no copy of the leader's store yet", extra={"reason": reason})
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        try:
            await store.install_copy(place)
        finally:
            await asyncio.to_thread(place.unlink, missing_ok=True)
        return


async def _who_leads(log: Log) -> Leader:
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
