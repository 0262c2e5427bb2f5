"""Takes snapshots of the store now and then, into a place that all leaders share, and knows the newest one there.

Each leader does so, and none asks another one: those that follow wait less, and the one that leads waits longest. A new
snapshot in the place has all of them wait anew. So one of them takes the next one, and if it can't, another one does.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from gowork.leader._core.model import Now, Position
from gowork.leader._replication.chain import check_follows
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.weight import Weight
from gowork.leader._snapshots.names import Snapshot, in_short
from gowork.leader._snapshots.places import CHUNK_BYTES, PlaceError, SnapshotPlace
from gowork.leader.log.entries import ChainError
from gowork.leader.log.protocol import Log, LogError, PrunedError
from gowork.leader.store.protocol import LoggedStore, StoreError, StoreFormatError

_log = logging.getLogger(__name__)

#: The note in the log that has the id of the place.
PLACE = "snapshots/place"
#: How often the place is looked at, in seconds.
LOOK_SECONDS = 10.0
#: A snapshot is taken when SNAPSHOT_SECONDS have passed since the last one and the log has more, and at once when what
#: it has more has SNAPSHOT_BYTES.
SNAPSHOT_SECONDS = 600.0
SNAPSHOT_BYTES = 64 << 20
#: How much longer each leader waits than the one before it, in seconds and in bytes, and how many are told apart.
RANK_SECONDS = 60.0
RANK_BYTES = 8 << 20
RANKS_MAX = 5
#: A leader that was not seen for so long takes none, in milliseconds. Clocks may differ: it is about the order alone.
SEEN_MS = 60_000
#: How long to wait before a snapshot that failed is tried again, in seconds, at least.
AGAIN_SECONDS = 60.0
#: The next snapshot waits TIMES_APART times as long as the last one took, unless SNAPSHOT_BYTES come first.
TIMES_APART = 10
#: How many snapshots of a generation are kept.
KEPT = 2


class OwnPlace(Protocol):
    """What this process does in the log."""

    @property
    def applied(self) -> int:
        """The index of the last entry that its store has applied."""
        ...

    @property
    def leads(self) -> bool:
        """Whether a term leads here."""
        ...

    @property
    def follows(self) -> str:
        """The id of the store of the leader that it follows; empty: it knows none."""
        ...


class Snapshots:
    """Those of one store, while `run` is awaited.

    Args:
        place: where they are.
        store: is open, and belongs to the log.
        log: is open, and has begun.
        store_id: the id of the store.
        weight: counts the bytes of entries that it applies.
        watch: knows what the log has, and who is registered.
        own: what this process does.
        now: returns the time.
        tell: is called with words for people when snapshots fail, and with None when they don't.
    """

    def __init__(
        self,
        place: SnapshotPlace,
        store: LoggedStore,
        log: Log,
        store_id: str,
        weight: Weight,
        watch: LogWatch,
        own: OwnPlace,
        now: Callable[[], Now],
        tell: Callable[[str | None], None] = lambda words: None,
    ) -> None:
        self._place = place
        self._store = store
        self._log = log
        self._store_id = store_id
        self._weight = weight
        self._watch = watch
        self._own = own
        self._now = now
        self._tell = tell
        #: The newest snapshot that a leader could go on from; None: there is none, or the place can't be used.
        self.newest: Snapshot | None = None
        #: Since when there is none, in monotonic seconds.
        self._without_mono = now().mono
        #: The newest one that was ever seen, and since when it was the newest, in monotonic seconds.
        self._seen: Snapshot | None = None
        self._since_mono = now().mono
        #: Those that do not fit the log, which was remarked on.
        self._unfit: set[Snapshot] = set()
        #: How long the last one took, in seconds.
        self._took_seconds = 0.0
        #: Before when none is taken, in monotonic seconds, and why the last one failed; empty: it did not.
        self._again_mono = float("-inf")
        self._failed = ""
        self._words: str | None = None

    @property
    def index(self) -> int:
        """The index up to which a shared snapshot has all; 0: there is none."""
        return 0 if self.newest is None else self.newest.position.index

    @property
    def age_seconds(self) -> float:
        """How old the newest snapshot is; 0 while the log has nothing that it lacks. Without one: since when."""
        now = self._now()
        if self.newest is None:
            return now.mono - self._without_mono
        if self.index >= self._watch.span.last:
            return 0.0
        return max(0.0, (now.wall_ms - self.newest.taken_ms) / 1000)

    async def run(self) -> None:
        """Looks, and takes snapshots, until it is cancelled."""
        scratch = _scratch(self._store)
        if scratch is None:
            self._say("no shared snapshots: copies of this store can't be made")
            return
        while True:
            passed = self._weight.passed
            try:
                await self.look(scratch)
            except PlaceError as error:
                self._found(None)
                self._say(f"no shared snapshots: {error}")
            except (LogError, StoreError) as error:
                _log.warning("shared snapshots not looked at", extra={"reason": str(error)})
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._weight.until(passed + SNAPSHOT_BYTES)

    async def look(self, scratch: Path) -> None:
        """Looks once which snapshots there are, and takes one if it is time.

        Args:
            scratch: where a copy of the store can be, for a while.

        Raises:
            PlaceError, LogError, StoreError: later perhaps.
        """
        if not await self._is_the_place():
            self._found(None)
            return
        ours = await self._ours()
        self._found(await self._newest_fit(ours))
        if self._is_due():
            await self._try_to_take(scratch)
            ours = await self._ours()
            self._found(await self._newest_fit(ours))
        await self._remove_old(ours)
        words = [f"no new shared snapshot: {self._failed}"] if self._failed else []
        if self.index < self._watch.span.first - 1:
            words.append("the log has dropped what no shared snapshot has, so tasks are lost if all leaders' disks are")
        self._say("; ".join(words) or None)

    async def _is_the_place(self) -> bool:
        """Whether the place here is the one that all leaders use, as far as the log tells. Who leads decides which.

        A folder whose file system is not mounted looks like an empty one.
        """
        noted = (await self._log.notes(PLACE)).get(PLACE)
        mark = await self._place.mark(make=noted is None and self._own.leads)
        if noted is not None:
            wanted = noted.decode("ascii", "replace")
            if mark != wanted:
                raise PlaceError(
                    f"{self._place} is not the place that the leaders of this log share: name that one, or mount it "
                    f"here; or if this is to be the place, {self._place.adopting(wanted)}"
                )
            return True
        if mark is not None and self._own.leads:
            await self._log.put_note(PLACE, mark.encode())
            return True
        return False

    async def _ours(self) -> list[Snapshot]:
        """Returns the snapshots of this log's generation, the newest first."""
        position = (await self._store.current()).position
        assert position is not None
        ours = [each for each in await self._place.snapshots() if each.position.generation == position.generation]
        return sorted(ours, key=lambda each: (each.position.index, each.taken_ms), reverse=True)

    async def _newest_fit(self, ours: list[Snapshot]) -> Snapshot | None:
        """Returns the newest snapshot from which the log can be followed, or could until what follows was pruned."""
        for snapshot in ours:
            if snapshot == self.newest:
                return snapshot
            try:
                await check_follows(self._log, snapshot.position)
            except PrunedError:
                return snapshot
            except ChainError as error:
                # It is left alone, because the log may be the one that is wrong.
                if snapshot not in self._unfit:
                    self._unfit.add(snapshot)
                    _log.error("shared snapshot not used", extra={"snapshot": snapshot.name, "reason": str(error)})
            else:
                return snapshot
        return None

    def _found(self, newest: Snapshot | None) -> None:
        now = self._now()
        if newest is None and self.newest is not None:
            self._without_mono = now.mono
        self.newest = newest
        if newest is None or newest == self._seen:
            return
        # Only when it is the first one, because the clocks of two machines may differ.
        age_seconds = 0.0 if self._seen is not None else (now.wall_ms - newest.taken_ms) / 1000
        self._seen = newest
        self._since_mono = now.mono - min(max(age_seconds, 0.0), SNAPSHOT_SECONDS)

    def _is_due(self) -> bool:
        now_mono = self._now().mono
        lacks_nothing = self.newest is not None and self.index >= self._own.applied
        if lacks_nothing or now_mono < self._again_mono:
            # Another leader may have taken one since it failed here.
            self._failed = "" if lacks_nothing else self._failed
            return False
        rank = self._rank()
        if self.newest is None:
            return now_mono - self._without_mono >= RANK_SECONDS * rank
        if self._weight.after(self.index) >= SNAPSHOT_BYTES + rank * RANK_BYTES:
            return True
        seconds = RANK_SECONDS * rank + max(SNAPSHOT_SECONDS, TIMES_APART * self._took_seconds)
        return now_mono - self._since_mono >= seconds

    def _rank(self) -> int:
        """Returns how many leaders are to take a snapshot rather than this one."""
        seen_since_ms = self._now().wall_ms - SEEN_MS
        others = [
            store_id
            for store_id, each in self._watch.registrations.items()
            if store_id not in (self._store_id, self._own.follows) and each.seen_ms >= seen_since_ms
        ]
        before = others if self._own.leads else [store_id for store_id in others if store_id < self._store_id]
        return min(len(before), RANKS_MAX)

    async def _try_to_take(self, scratch: Path) -> None:
        began_mono = self._now().mono
        try:
            await self._take(scratch)
        except (PlaceError, StoreError, OSError) as error:
            # The newest snapshot is as usable as before.
            self._failed = str(error)
            now_mono = self._now().mono
            self._again_mono = now_mono + max(AGAIN_SECONDS, TIMES_APART * (now_mono - began_mono))
        else:
            self._failed = ""

    async def _take(self, scratch: Path) -> None:
        began = self._now()
        building = Path(f"{scratch}.part")
        try:
            for leftover in (scratch, building):
                await asyncio.to_thread(leftover.unlink, missing_ok=True)
            await self._store.backup(scratch)
            version, position = await self._store.check_copy(scratch)
            if position.index <= self.index:
                return
            size, sha256 = await asyncio.to_thread(_sum, scratch)
            snapshot = Snapshot(position, version, began.wall_ms, size, sha256)
            await self._place.write(snapshot, scratch)
        finally:
            await asyncio.to_thread(scratch.unlink, missing_ok=True)
        self._took_seconds = self._now().mono - began.mono
        _log.info(
            "took a shared snapshot",
            extra={"index": position.index, "bytes": size, "seconds": round(self._took_seconds, 3)},
        )

    async def _remove_old(self, ours: list[Snapshot]) -> None:
        """Removes all but the newest. Those that do not fit the log are neither counted nor removed."""
        fit = [each for each in ours if each not in self._unfit]
        for snapshot in fit[KEPT:]:
            await self._place.remove(snapshot)

    def _say(self, words: str | None) -> None:
        if words == self._words:
            return
        if words is not None:
            _log.error("shared snapshots fail", extra={"reason": words})
        else:
            _log.info("shared snapshots are well")
        self._words = words
        self._tell(words)


async def fetch_newest(place: SnapshotPlace, store: LoggedStore, log: Log, least: int, target: Path) -> Position:
    """Copies the newest snapshot that a store can be made from, and that can follow the log, to a file.

    Args:
        place: where snapshots are.
        store: the closed store that is to be made.
        log: is open, and has begun.
        least: the least index that the snapshot must have.
        target: the file. It may be left when this fails.

    Returns:
        Where the snapshot stands in the log.

    Raises:
        PlaceError: there is none. The message says why.
        LogError.
    """
    generation = await log.generation()
    reasons = []
    found = [each for each in await place.snapshots() if generation and each.position.generation == generation.id]
    for snapshot in sorted(found, key=lambda each: (each.position.index, each.taken_ms), reverse=True):
        if snapshot.position.index < least:
            reasons.append(f"{in_short(snapshot)} lacks entries that the log has no more, or that are needed")
            break
        if snapshot.format > store.copy_format:
            reasons.append(f"{in_short(snapshot)} has format {snapshot.format}: a newer version wrote it")
            continue
        try:
            await check_follows(log, snapshot.position)
            await place.read(snapshot, target)
            _, position = await store.check_copy(target)
        except (ChainError, PrunedError, PlaceError, StoreFormatError) as error:
            reasons.append(f"{in_short(snapshot)}: {error}")
            continue
        if position == snapshot.position:
            return position
        reasons.append(f"{in_short(snapshot)} is at index {position.index}")
    raise PlaceError("; ".join(reasons) or f"{place} has no snapshot of this log")


def _scratch(store: LoggedStore) -> Path | None:
    """Returns where a copy of the store can be for a while, apart from those that others make; None: nowhere."""
    return None if store.scratch is None else Path(f"{store.scratch}-snapshot")


def _sum(path: Path) -> tuple[int, str]:
    """Returns a file's bytes, and the SHA-256 over them."""
    hashed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hashed.update(chunk)
            size += len(chunk)
    return size, hashed.hexdigest()
