"""Takes a copy of another leader's store, for a leader that is new, too far behind, or can't use its store.

A snapshot that leaders share is taken first, because that costs none of them anything, and the log has what comes after
it. Then the leaders are asked, and the one that leads last.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

import grpc
import msgspec

from gowork.base.channels import open_channel
from gowork.base.tls import Tls
from gowork.leader._access.metadata import FORWARDED
from gowork.leader._replication import announcement
from gowork.leader._replication.chain import check_follows
from gowork.leader._replication.pins import pinned
from gowork.leader._replication.registers import registered
from gowork.leader._replication.snapshots import fetch_newest
from gowork.leader._rpc.backups import CHUNK_BYTES
from gowork.leader._snapshots.places import PlaceError, SnapshotPlace
from gowork.leader.log.entries import ChainError
from gowork.leader.log.protocol import Leader, Log, LogRefusedError, LogUnreachableError, PrunedError
from gowork.leader.store.protocol import LoggedStore, StoreError, StoreFormatError, StoreFullError
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc

_log = logging.getLogger(__name__)

#: How long to wait before another attempt, in seconds, at first and at most.
AGAIN_SECONDS = 1.0
AGAIN_SECONDS_MAX = 60.0
#: How long it may take to connect to a leader, and until the first part and each further one is there, in seconds.
CONNECT_SECONDS = 5.0
FIRST_PART_SECONDS = 900.0
PART_SECONDS = 60.0
#: How often in a row a copy is gone on with though nothing of it came.
IN_VAIN_MAX = 5
#: What ends one attempt, and may not end the next one.
_PASSING = (
    grpc.aio.AioRpcError,
    TimeoutError,
    OSError,
    ChainError,
    LogUnreachableError,
    # It was let in, or it would not know that it needs a copy.
    LogRefusedError,
    PrunedError,
    StoreFormatError,
    StoreFullError,
)


class _NoCopy(Exception):
    """No copy was made. The message says why."""


class _Begun:
    """A copy that a leader has begun to send."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.id = ""
        self.sha256 = b""
        self.size = self.written = 0
        self.in_vain = 0


async def take_copy(
    log: Log,
    store: LoggedStore,
    place: SnapshotPlace | None = None,
    least: int = 0,
    *,
    tell: Callable[[str], None] = lambda because: None,
    tls: Tls | None = None,
) -> Path:
    """Puts a copy of another leader's store in the place of a closed store. It tries until that succeeds.

    The store is set aside when the copy is there whole, and not before. While the copy is under way the log keeps what
    comes after it.

    Args:
        log: is open, and has begun.
        store: is closed.
        place: where leaders share snapshots; None: nowhere.
        least: the least index that the copy must have.
        tell: is called with why there is no copy yet, for people, each time that it is tried in vain.
        tls: the certificates with which leaders are called; None: plain text.

    Returns:
        Where the store is now that was there before.

    Raises:
        StoreError: the store can't be set aside or made.
        GenerationError.
        NewerFormatError: this version can't follow the log.
    """
    target = store.scratch
    if target is None:
        raise StoreError("this store can't be made from a copy")
    taking = _Taking(log, store, place, least, target, tls)
    aside: Path | None = None
    wait = AGAIN_SECONDS
    try:
        while True:
            try:
                async with pinned(log):
                    await taking.fetch()
                    if aside is None:
                        aside = await store.set_aside()
                    await store.install_copy(target)
            except (_NoCopy, *_PASSING) as error:
                because = _reason(error)
                _log.warning("no copy of another leader's store yet", extra={"reason": because})
                tell(because)
            else:
                return aside
            if taking.begun is None:
                # A part of a copy must not fill the disk until the next attempt.
                await asyncio.to_thread(target.unlink, missing_ok=True)
                await taking.news(wait)
                wait = min(2 * wait, AGAIN_SECONDS_MAX)
            else:
                await asyncio.sleep(AGAIN_SECONDS)
    finally:
        await asyncio.to_thread(target.unlink, missing_ok=True)


class _Taking:
    """Fetches one copy to a file, from whoever has it.

    Args:
        log, store, place, least, tls: see `take_copy`.
        target: the file.
    """

    def __init__(
        self,
        log: Log,
        store: LoggedStore,
        place: SnapshotPlace | None,
        least: int,
        target: Path,
        tls: Tls | None = None,
    ) -> None:
        self._tls = tls
        self._log = log
        self._store = store
        self._place = place
        self._least = least
        self._target = target
        #: What the file has a part of, and can be gone on with; None: nothing.
        self.begun: _Begun | None = None
        #: The token of the leadership whose leader was asked last.
        self._asked = 0

    async def fetch(self) -> None:
        """Has a copy in the file that can follow the log.

        Raises:
            _NoCopy and what _PASSING has: not now.
        """
        least = max((await self._log.span()).first - 1, self._least)
        reasons: list[str] = []
        if self.begun is None and self._place is not None:
            try:
                position = await fetch_newest(self._place, self._store, self._log, least, self._target)
            except PlaceError as error:
                reasons.append(str(error))
            else:
                _log.info("has a shared snapshot", extra={"index": position.index})
                return
        for address in [self.begun.address] if self.begun is not None else await self._addresses(least):
            try:
                await self._fetch_from(address, least)
            except (_NoCopy, *_PASSING) as error:
                if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                    # The disk here is full, or broken.
                    self.begun = None
                    raise
                reasons.append(f"{address}: {_reason(error)}")
                if self.begun is not None:
                    break
            else:
                return
        raise _NoCopy("; ".join(reasons) or "nobody leads, and no other leader is registered")

    async def news(self, seconds: float) -> None:
        """Returns when another leader leads, or after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                try:
                    async with aclosing(self._log.leaders()) as leaders:
                        async for leader in leaders:
                            if leader is not None and leader.token != self._asked:
                                return
                except (LogUnreachableError, LogRefusedError):
                    await asyncio.sleep(seconds)

    async def _addresses(self, least: int) -> list[str]:
        """Returns where leaders are that may have a copy: the one that was seen last first, who leads at the end."""
        leading = await self._who_leads()
        self._asked = 0 if leading is None else leading.token
        others = [each for each in (await registered(self._log)).values() if each.applied >= least]
        found = [each.leader.scheduler for each in sorted(others, key=lambda each: each.seen_ms, reverse=True)]
        if leading is not None:
            try:
                address = announcement.decode(leading.announcement).scheduler
            except msgspec.MsgspecError as error:
                _log.warning("leader can't be asked for a copy", extra={"reason": str(error)})
            else:
                found = [*(each for each in found if each != address), address]
        return list(dict.fromkeys(found))

    async def _who_leads(self) -> Leader | None:
        async with aclosing(self._log.leaders()) as leaders:
            async for leader in leaders:
                return leader
        return None

    async def _fetch_from(self, address: str, least: int) -> None:
        begun = self.begun or _Begun(address)
        before = begun.written
        self.begun = None
        try:
            await self._receive(begun, least)
        except (_NoCopy, grpc.aio.AioRpcError, TimeoutError) as error:
            begun.in_vain = 0 if begun.written > before else begun.in_vain + 1
            if begun.written and _passes(error) and begun.in_vain < IN_VAIN_MAX:
                self.begun = begun
            raise
        if not begun.size or begun.written != begun.size:
            raise _NoCopy(f"the copy has {begun.written} bytes of {begun.size}")
        if await asyncio.to_thread(_sum, self._target) != begun.sha256:
            raise _NoCopy("the copy has other bytes than were sent")
        _, position = await self._store.check_copy(self._target)
        if position.index < self._least:
            raise _NoCopy(f"the copy is at index {position.index}, and lacks entries that are needed")
        await check_follows(self._log, position)
        _log.info("has a copy of another leader's store", extra={"address": address, "bytes": begun.written})

    async def _receive(self, begun: _Begun, least: int) -> None:
        """Writes what a leader sends, from where it broke off, or from the beginning."""
        generation = await self._log.generation()
        request = leader_pb2.CopyStoreRequest(
            generation=generation.id if generation else "",
            format_max=self._store.copy_format,
            index_min=least,
            copy_id=begun.id,
            offset=begun.written,
        )
        async with open_channel([begun.address], tls=self._tls) as channel:
            await _connect(channel)
            # Marked as forwarded, so that a leader without a store of its own refuses it, and does not forward it.
            call = leader_pb2_grpc.LeaderServiceStub(channel).CopyStore(request, metadata=((FORWARDED, "none"),))
            seconds = FIRST_PART_SECONDS
            with self._target.open("ab" if begun.id else "wb") as target:
                while True:
                    async with asyncio.timeout(seconds):
                        part = await call.read()
                    if not isinstance(part, leader_pb2.CopyStoreResponse):
                        break
                    await asyncio.to_thread(target.write, part.data)
                    # What is counted is in the file, also when the next part does not come.
                    target.flush()
                    begun.written += len(part.data)
                    begun.id, begun.size, begun.sha256 = part.copy_id, part.total_bytes, part.sha256
                    seconds = PART_SECONDS


async def _connect(channel: grpc.aio.Channel) -> None:
    """Returns when the channel is connected.

    Raises:
        _NoCopy: it is refused, or takes too long.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            state = channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise _NoCopy("refuses connections")
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        raise _NoCopy("can't be reached") from None


def _passes(error: Exception) -> bool:
    """Whether a copy can perhaps be gone on with after this."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return True
    return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or error.code().name
    return str(error) or type(error).__name__


def _sum(path: Path) -> bytes:
    """Returns the SHA-256 over a file."""
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
    return hashed.digest()
