"""The log in etcd, from version 3.4 on.

Below its prefix it has these keys. Each change is one transaction that compares what it rests on.

- `generation`: the id and the term floor of the generation.
- `term`: the last term that was given.
- `leader`: who leads. It is on the leader's lease. Its create revision names the leadership, and each append, prune and
  removal compares it.
- `log/INDEX`: an entry, or the last part of one. INDEX has 16 hexadecimal digits, so that keys sort by it.
- `part/INDEX/NONCE/NUMBER`: the other parts. They count once `log/INDEX` names their nonce.
- `note/KEY`: a note.

No key says which entry is the first, because etcd refuses to write one when it is full, and lets only deletes pass. An
election compares instead that the candidate's last entry, or the next one, is there. As the entries are dense and are
removed from their beginning, that says the same.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TypeVar

import msgspec

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import CALL_SECONDS, PAGE_SECONDS, PAUSE_SECONDS, Etcd, EtcdClient, Keeping
from gowork.leader.log._etcd.compaction import Compaction
from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log._etcd.requests import (
    absent,
    delete,
    empty,
    get,
    held,
    holds_value,
    present,
    put,
)
from gowork.leader.log._etcd.values import joined, read_value, split
from gowork.leader.log.holding import OwnLease, settled, told_in_time
from gowork.leader.log.protocol import (
    FOLLOW_SECONDS,
    Candidate,
    Generation,
    GenerationError,
    Leader,
    Leadership,
    LeadershipLostError,
    LogDamagedError,
    LogEntry,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    next_term,
)

_T = TypeVar("_T")

#: How long the leadership lasts without a keepalive, in seconds. etcd takes no less than 2 s.
LEASE_SECONDS = 3
#: How many entries a page has at most.
_PAGE_ENTRIES = 16
#: How many entries one transaction removes at most, so that appends do not wait for long.
_PRUNED_AT_ONCE = 1_000
#: How long a read is tried, at one member after the other, in seconds.
_READ_SECONDS = 5.0

_encode = msgspec.json.Encoder().encode
_decode_generation = msgspec.json.Decoder(Generation).decode


def etcd_log(url: str) -> EtcdLog:
    """Makes the log of `etcd://HOST:PORT[,HOST:PORT]…[/PREFIX]`. See `endpoints_of`.

    Raises:
        LogError: the URL, or a variable, makes no sense.
    """
    endpoints = endpoints_of(url)
    return EtcdLog(EtcdClient(endpoints), endpoints.prefix, compacts=endpoints.compacts)


class _Keys:
    """The keys below a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode() + b"/"
        self.generation = self._prefix + b"generation"
        self.term = self._prefix + b"term"
        self.leader = self._prefix + b"leader"
        #: (first key, end) of all entries, of all their parts, and of all notes.
        self.entries = self._prefix + b"log/", self._prefix + b"log0"
        self.parts = self._prefix + b"part/", self._prefix + b"part0"
        self.notes = self._prefix + b"note/", self._prefix + b"note0"

    def entry(self, index: int) -> bytes:
        return self.entries[0] + b"%016x" % index

    def part(self, index: int, nonce: bytes = b"", number: int | None = None) -> bytes:
        """Returns the key of a part, or what the keys of all parts with this index, or nonce, begin with."""
        key = self.parts[0] + b"%016x/" % index
        if nonce:
            key += nonce.hex().encode() + b"/"
        return key if number is None else key + b"%08x" % number

    def note(self, key: str) -> bytes:
        return self.notes[0] + key.encode()

    def index_of(self, key: bytes) -> int:
        return int(key[len(self.entries[0]) :], 16)


class EtcdLog:
    """See Log.

    Args:
        etcd: how etcd is called.
        prefix: its keys begin with this and a slash.
        compacts: whether etcd forgets old revisions of its keys after each prune.
    """

    def __init__(self, etcd: Etcd, prefix: str, *, compacts: bool = True) -> None:
        self._etcd = etcd
        self._keys = _Keys(prefix)
        self._compaction = Compaction(etcd, self._keys.leader, compacts=compacts)
        self._leadership: EtcdLeadership | None = None
        #: What revokes leases that nobody needs.
        self._revoking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """See Log.open."""
        await self._etcd.open()

    async def close(self) -> None:
        """See Log.close."""
        if self._leadership is not None:
            await self._leadership.resign()
        if self._revoking:
            await asyncio.wait(self._revoking)
        await self._etcd.close()

    async def generation(self) -> Generation | None:
        """See Log.generation."""
        found = (await self._read(self._keys.generation)).kvs
        return _decode_generation(found[0].value) if found else None

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        """See Log.begin."""
        keys = self._keys
        value = _encode(generation)
        doubted = False
        for _ in range(_attempts(_READ_SECONDS)):
            found = (await self._read(keys.generation)).kvs
            if found and found[0].value == value and doubted:
                return
            now = _decode_generation(found[0].value).id if found else None
            if now != replaces:
                raise GenerationError(f"the log has generation {now or 'none'} by now, not {replaces or 'none'}")
            before = holds_value(keys.generation, found[0].value) if found else absent(keys.generation)
            removed = [delete(*each) for each in (keys.entries, keys.parts, keys.notes)]
            written = [put(keys.generation, value), put(keys.term, b"%d" % generation.term_floor), delete(keys.leader)]
            try:
                answer = await self._etcd.txn(pb.TxnRequest(compare=[before], success=[*removed, *written]))
            except LogUnreachableError:
                doubted = True
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if answer.succeeded:
                return
        raise LogUnreachableError("etcd does not answer; whether the generation has begun is unknown")

    async def span(self) -> Span:
        """See Log.span."""
        keys = self._keys
        read = [get(keys.generation), *_ends_of(keys)]
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=read)))
        generation, first, last = (response.response_range.kvs for response in answer.responses)
        if not generation:
            raise GenerationError("the log has not begun")
        if not first:
            base = _decode_generation(generation[0].value).base
            return Span(base + 1, base)
        return Span(keys.index_of(first[0].key), keys.index_of(last[0].key))

    async def leaders(self) -> AsyncGenerator[Leader | None, None]:
        """See Log.leaders."""
        key = self._keys.leader
        told: Leader | None = None
        is_told = False
        while True:
            answer = await self._read(key)
            now = _leader_of(answer.kvs[0]) if answer.kvs else None
            if not is_told or now != told:
                told, is_told = now, True
                yield now
            async with aclosing(_changes(self._etcd, key, b"", answer.header.revision + 1)) as events:
                async for event in events:
                    told = _leader_of(event.kv) if event.type == pb.Event.PUT else None
                    yield told

    async def campaign(self, candidate: Candidate) -> Leadership:
        """See Log.campaign."""
        keys = self._keys
        read = [
            get(keys.generation),
            get(keys.term),
            get(keys.leader),
            get(keys.entry(candidate.applied), keys_only=True),
            get(keys.entry(candidate.applied + 1), keys_only=True),
            *_ends_of(keys),
        ]
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=read)))
        generation, counter, leader, applied, following, first, _ = (
            response.response_range.kvs for response in answer.responses
        )
        floor, base = _own_generation(generation, candidate)
        if leader:
            raise NotElectedError("another leader leads")
        if applied:
            can_follow = present(keys.entry(candidate.applied))
        elif following:
            can_follow = present(keys.entry(candidate.applied + 1))
        elif not first and candidate.applied == base:
            can_follow = empty(*keys.entries)
        else:
            raise NotElectedError(
                f"this store has applied entry {candidate.applied}, and the log goes on from "
                f"{keys.index_of(first[0].key) if first else base + 1}: it needs a copy of another leader's store"
            )
        term = next_term(int(counter[0].value) if counter else 0, floor, candidate.term)
        own, granted = await self._grant(LEASE_SECONDS)
        value = b"%d\n" % term + candidate.announcement
        compared = [
            holds_value(keys.generation, generation[0].value),
            holds_value(keys.term, counter[0].value) if counter else absent(keys.term),
            absent(keys.leader),
            can_follow,
        ]
        written = [put(keys.term, b"%d" % term), put(keys.leader, value, granted)]
        try:
            elected = await self._etcd.txn(pb.TxnRequest(compare=compared, success=written))
            if not elected.succeeded:
                raise NotElectedError("another candidate was elected, or the log has changed meanwhile")
            won = Leader(term, elected.header.revision, candidate.announcement)
            await self._remove_void_parts(won)
        except BaseException:
            # Whatever came of it, this lease is used for nothing more. If it can't be revoked, it ends by itself.
            revoking = asyncio.get_running_loop().create_task(self._revoke(granted))
            self._revoking.add(revoking)
            revoking.add_done_callback(self._revoking.discard)
            raise
        self._leadership = EtcdLeadership(self._etcd, keys, won, own, granted, base, self._compaction)
        return self._leadership

    async def depose(self, leader: Leader) -> bool:
        """See Log.depose."""
        key = self._keys.leader
        request = pb.TxnRequest(compare=[held(key, leader.token)], success=[delete(key)])
        return (await self._settled(lambda: self._etcd.txn(request))).succeeded

    async def follow(self, after: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        """See Log.follow."""
        keys = self._keys
        while True:
            page, revision, more = await self._page(after)
            if page:
                after = page[-1].index
                yield page
            if more:
                continue
            async with aclosing(_changes(self._etcd, *keys.entries, revision + 1)) as events:
                async for event in events:
                    if event.type == pb.Event.DELETE:
                        continue
                    index = keys.index_of(event.kv.key)
                    if index != after + 1:
                        # It may be that the log was begun anew. The next page tells.
                        break
                    entry = await self._entry(event.kv)
                    after = index
                    yield [entry]

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        """See Log.put_note."""
        lease = 0
        if seconds is not None:
            _, lease = await self._grant(max(-int(-seconds // 1), 1))
        request = pb.TxnRequest(success=[put(self._keys.note(key), value, lease)])
        await self._settled(lambda: self._etcd.txn(request))

    async def drop_note(self, key: str) -> None:
        """See Log.drop_note."""
        request = pb.TxnRequest(success=[delete(self._keys.note(key))])
        await self._settled(lambda: self._etcd.txn(request))

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """See Log.notes."""
        start = self._keys.note(prefix)
        # The keys are ASCII, so this is above all keys that begin so.
        answer = await self._read(start, start + b"\xff")
        return {found.key[len(self._keys.notes[0]) :].decode(): found.value for found in answer.kvs}

    async def _page(self, after: int) -> tuple[list[LogEntry], int, bool]:
        """Returns the next entries, the revision at which they were read, and whether there are more.

        Raises:
            PrunedError, LogDamagedError: see Log.follow.
        """
        keys = self._keys
        read = [
            get(keys.entry(after), keys_only=True),
            get(keys.entry(after + 1), keys.entries[1], limit=_PAGE_ENTRIES),
            get(keys.generation),
        ]
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=read), PAGE_SECONDS), FOLLOW_SECONDS)
        before, found, generation = (response.response_range for response in answer.responses)
        if not generation.kvs:
            raise GenerationError("the log has not begun")
        base = _decode_generation(generation.kvs[0].value).base
        indexes = [keys.index_of(each.key) for each in found.kvs]
        if indexes and indexes[0] > after + 1 and not before.kvs:
            raise PrunedError(indexes[0])
        if not indexes and not before.kvs and after > base:
            raise LogDamagedError(
                f"the log ends before entry {after}, which the store has applied; it was put back to an earlier state"
            )
        if not indexes and after < base:
            raise PrunedError(base + 1)
        for index, expected in zip(indexes, range(after + 1, after + 1 + len(indexes)), strict=True):
            if index != expected:
                raise LogDamagedError(f"the log lacks entry {expected}: the next one that it has is {index}")
        return [await self._entry(each) for each in found.kvs], answer.header.revision, found.more

    async def _entry(self, found: pb.KeyValue) -> LogEntry:
        """Reads an entry with its other parts."""
        keys, index = self._keys, self._keys.index_of(found.key)
        last = read_value(found.value)
        if not last.before:
            return LogEntry(index, last.data)
        parts: list[bytes] = []
        while len(parts) < last.before:
            start, end = keys.part(index, last.nonce, len(parts)), keys.part(index, last.nonce) + b"\xff"
            answer = await self._read(start, end, limit=_PAGE_ENTRIES)
            if not answer.kvs:
                if not (await self._read(found.key)).kvs:
                    # The entry was pruned, with its parts, after it was told.
                    raise PrunedError((await self.span()).first)
                raise LogDamagedError(
                    f"entry {index} of the log has {last.before + 1} parts, and {len(parts)} are there"
                )
            parts += [part.value for part in answer.kvs]
        return LogEntry(index, joined(parts, last))

    async def _grant(self, seconds: int) -> tuple[OwnLease, int]:
        """Makes a lease of etcd. Returns how long it surely holds, and its number."""
        sent = self._etcd.now()
        granted = await self._settled(lambda: self._etcd.grant(seconds))
        return OwnLease(granted.TTL, sent), granted.ID

    async def _revoke(self, lease: int) -> None:
        with suppress(LogError):
            await self._etcd.revoke(lease)

    async def _remove_void_parts(self, leader: Leader) -> None:
        """Removes parts of an entry that a leader before this one did not finish.

        Each set of parts is removed by its name. An attempt that arrives late must not remove parts that this leader
        has written meanwhile.
        """
        keys = self._keys
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=_ends_of(keys))))
        _, last = (response.response_range.kvs for response in answer.responses)
        void = keys.part(keys.index_of(last[0].key) + 1 if last else 0)
        request = pb.RangeRequest(key=void, range_end=keys.parts[1], keys_only=True)
        found = await self._settled(lambda: self._etcd.range(request, PAGE_SECONDS))
        for name in sorted({part.key.rpartition(b"/")[0] for part in found.kvs}):
            removed = [delete(name + b"/", name + b"0")]
            await self._settled(
                partial(self._etcd.txn, pb.TxnRequest(compare=[held(keys.leader, leader.token)], success=removed))
            )

    async def _read(self, key: bytes, end: bytes = b"", *, limit: int = 0) -> pb.RangeResponse:
        request = pb.RangeRequest(key=key, range_end=end, limit=limit)
        return await self._settled(lambda: self._etcd.range(request, PAGE_SECONDS if end else CALL_SECONDS))

    async def _settled(self, call: Callable[[], Awaitable[_T]], seconds: float = _READ_SECONDS) -> _T:
        """Makes a call that may be repeated, at one member after the other, until one answers. See `settled`."""
        return await settled(call, seconds, self._etcd.now)


class EtcdLeadership:
    """See Leadership."""

    def __init__(
        self,
        etcd: Etcd,
        keys: _Keys,
        leader: Leader,
        own: OwnLease,
        lease: int,
        base: int,
        compaction: Compaction,
    ) -> None:
        self._etcd = etcd
        self._keys = keys
        self._leader = leader
        self._own = own
        self._lease = lease
        self._base = base
        self._compaction = compaction
        self._lost = asyncio.Event()
        self._keeping: Keeping = etcd.keep(lease, own, self._lost.set)
        self._watching = asyncio.get_running_loop().create_task(self._watch(), name="watch the leadership")

    @property
    def leader(self) -> Leader:
        """See Leadership.leader."""
        return self._leader

    @property
    def lost(self) -> asyncio.Event:
        """See Leadership.lost."""
        return self._lost

    def holds(self) -> bool:
        """See Leadership.holds."""
        if not self._lost.is_set() and self._etcd.now() < self._own.until:
            return True
        self._lost.set()
        return False

    async def append(self, index: int, data: bytes) -> None:
        """See Leadership.append."""
        keys, token = self._keys, self._leader.token
        if index <= self._base:
            raise LogDamagedError(f"the log begins after entry {self._base}, and entry {index} was to be appended")
        nonce = secrets.token_bytes(8)
        parts, value = split(data, nonce)
        for number, part in enumerate(parts):
            # Parts count for nothing until the last one is there, so they may be refused after a doubt.
            if not (
                await self._told([held(keys.leader, token)], [put(keys.part(index, nonce, number), part)])
            ).succeeded:
                raise self._over()
        compared = [held(keys.leader, token), absent(keys.entry(index))]
        compared.append(empty(*keys.entries) if index == self._base + 1 else present(keys.entry(index - 1)))
        read = [get(keys.entry(index)), get(keys.leader, keys_only=True)]
        answer = await self._told(compared, [put(keys.entry(index), value)], read, is_final=True)
        if answer.succeeded:
            return
        found, leader = (response.response_range.kvs for response in answer.responses)
        if found and found[0].value == value:
            # An earlier attempt wrote it.
            return
        if not leader or leader[0].create_revision != token:
            raise self._over()
        there = "has another entry" if found else "lacks the entry before"
        raise LogDamagedError(f"the log {there} {index}, though only this leader may append")

    async def confirm(self) -> None:
        """See Leadership.confirm."""
        request = pb.RangeRequest(key=self._keys.leader, keys_only=True)
        answer = await self._until_told(lambda: self._etcd.range(request))
        if not answer.kvs or answer.kvs[0].create_revision != self._leader.token or not self.holds():
            raise self._over()

    async def prune(self, before: int) -> None:
        """See Leadership.prune."""
        keys = self._keys
        ends = await self._told([], _ends_of(keys))
        first, last = (response.response_range.kvs for response in ends.responses)
        if not last:
            return
        start, before = keys.index_of(first[0].key), min(before, keys.index_of(last[0].key))
        revision = 0
        while start < before:
            start = min(start + _PRUNED_AT_ONCE, before)
            # The entry that will be the first must be there, so the last one always stays.
            compared = [held(keys.leader, self._leader.token), present(keys.entry(start))]
            removed = [delete(keys.entries[0], keys.entry(start)), delete(keys.parts[0], keys.part(start))]
            answer = await self._told(compared, removed)
            if not answer.succeeded:
                raise self._over()
            revision = answer.header.revision
        if revision:
            await self._compaction.pruned(revision)

    async def resign(self) -> None:
        """See Leadership.resign."""
        self._keeping.stop()
        self._watching.cancel()
        if self._lost.is_set():
            return
        self._lost.set()
        key = self._keys.leader
        request = pb.TxnRequest(compare=[held(key, self._leader.token)], success=[delete(key)])
        await told_in_time(lambda: self._etcd.txn(request), lambda: self._etcd.now() < self._own.until)
        with suppress(LogError):
            await self._etcd.revoke(self._lease)

    async def _told(
        self,
        compared: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        is_final: bool = False,
    ) -> pb.TxnResponse:
        """Makes a transaction that may be repeated; see _until_told."""
        request = pb.TxnRequest(compare=compared, success=success, failure=failure)
        return await self._until_told(lambda: self._etcd.txn(request), is_final=is_final)

    async def _until_told(self, call: Callable[[], Awaitable[_T]], *, is_final: bool = False) -> _T:
        """Makes a call again and again, at one member after the other, until one answers or the lease is over.

        Args:
            call: may be made again.
            is_final: whether it decides what is in the log. Once such a call is in doubt, the refusal of a later one
                says nothing of the first.

        Raises:
            LogFullError, LogRefusedError: nothing was written.
            LeadershipLostError: the own lease is over.
        """
        doubted = False
        while True:
            if not self.holds():
                raise self._over()
            try:
                return await call()
            except LogUnreachableError:
                doubted = True
            except (LogFullError, LogRefusedError):
                if not (doubted and is_final):
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    async def _watch(self) -> None:
        """Finds out that the key of the leader is gone, also when nothing is appended."""
        key = self._keys.leader
        # What was before the watch is compared by each append.
        revision = self._leader.token + 1
        while not self._lost.is_set():
            async with aclosing(_changes(self._etcd, key, b"", revision)) as events:
                async for _ in events:
                    # It was removed. Nobody writes it again while it is there.
                    self._over()
            request = pb.RangeRequest(key=key, keys_only=True)
            revision = 0
            with suppress(LogUnreachableError):
                answer = await self._etcd.range(request)
                if not answer.kvs or answer.kvs[0].create_revision != self._leader.token:
                    self._over()
                revision = answer.header.revision + 1

    def _over(self) -> LeadershipLostError:
        self._lost.set()
        self._keeping.stop()
        self._watching.cancel()
        return LeadershipLostError(f"this leader no longer leads: term {self._leader.term} is over")


async def _changes(etcd: Etcd, key: bytes, end: bytes, revision: int) -> AsyncGenerator[pb.Event, None]:
    """Yields changes from a revision on until the watch breaks, for whatever reason. Then all must be read anew."""
    create = pb.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
    with suppress(LogUnreachableError):
        async with aclosing(etcd.watch(create)) as answers:
            async for answer in answers:
                for event in answer.events:
                    yield event
    # A watch that always breaks at once must not be asked for without a pause.
    await asyncio.sleep(PAUSE_SECONDS)


def _ends_of(keys: _Keys) -> list[pb.RequestOp]:
    """Returns the questions for the first and for the last entry."""
    return [
        get(*keys.entries, limit=1, keys_only=True),
        get(*keys.entries, limit=1, keys_only=True, descending=True),
    ]


def _leader_of(found: pb.KeyValue) -> Leader:
    term, _, announcement = found.value.partition(b"\n")
    return Leader(int(term), found.create_revision, announcement)


def _own_generation(found: Sequence[pb.KeyValue], candidate: Candidate) -> tuple[int, int]:
    """Returns the term floor and the base of the generation, which must be the candidate's."""
    if not found:
        raise GenerationError("the log has not begun")
    generation = _decode_generation(found[0].value)
    if generation.id != candidate.generation:
        raise GenerationError(
            f"the log has generation {generation.id}, and this store belongs to {candidate.generation}"
        )
    return generation.term_floor, generation.base


def _attempts(seconds: float) -> int:
    return int(seconds / CALL_SECONDS)
