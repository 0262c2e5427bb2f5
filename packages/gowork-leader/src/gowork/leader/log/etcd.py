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
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import TypeVar

import msgspec

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import CALL_SECONDS, PAGE_SECONDS, Etcd, EtcdClient
from gowork.leader.log._etcd.compaction import Compaction
from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log._etcd.keys import Keys
from gowork.leader.log._etcd.leadership import EtcdLeadership
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
from gowork.leader.log._etcd.values import joined, read_value
from gowork.leader.log._etcd.watching import changes
from gowork.leader.log.holding import PAUSE_SECONDS, OwnLease, settled
from gowork.leader.log.protocol import (
    FOLLOW_SECONDS,
    Candidate,
    Generation,
    GenerationError,
    Leader,
    Leadership,
    LogDamagedError,
    LogEntry,
    LogError,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    ends_before,
    next_term,
    not_begun,
)

_T = TypeVar("_T")

#: What to do about a value that no leader has written.
_PUT_BACK = "put back what it had"
#: How long the leadership lasts without a keepalive, in seconds. etcd takes no less than 2 s.
LEASE_SECONDS = 3
#: How many entries a page has at most.
_PAGE_ENTRIES = 16
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


class EtcdLog:
    """See Log.

    Args:
        etcd: how etcd is called.
        prefix: its keys begin with this and a slash.
        compacts: whether etcd forgets old revisions of its keys after each prune.
    """

    def __init__(self, etcd: Etcd, prefix: str, *, compacts: bool = True) -> None:
        self._etcd = etcd
        self._keys = Keys(prefix)
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
        return _generation_in(found[0]) if found else None

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        """See Log.begin."""
        keys = self._keys
        value = _encode(generation)
        doubted = False
        for _ in range(_attempts(_READ_SECONDS)):
            found = (await self._read(keys.generation)).kvs
            if found and found[0].value == value and doubted:
                return
            now = _generation_in(found[0]).id if found else None
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
        read = [get(keys.generation), *keys.ends()]
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=read)))
        generation, first, last = (response.response_range.kvs for response in answer.responses)
        if not generation:
            raise not_begun()
        if not first:
            base = _generation_in(generation[0]).base
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
            async with aclosing(changes(self._etcd, key, b"", answer.header.revision + 1)) as events:
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
            *keys.ends(),
        ]
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=read)))
        generation, counter, leader, applied, following, first, last = (
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
        elif (ends_at := keys.index_of(last[0].key) if last else base) < candidate.applied:
            raise ends_before(candidate.applied, ends_at)
        else:
            raise NotElectedError(
                f"this store has applied entry {candidate.applied}, and the log goes on from "
                f"{keys.index_of(first[0].key) if first else base + 1}: it needs a copy of another leader's store"
            )
        term = next_term(_term_in(counter[0], counter[0].value) if counter else 0, floor, candidate.term)
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
            async with aclosing(changes(self._etcd, *keys.entries, revision + 1)) as events:
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
            raise not_begun()
        base = _generation_in(generation.kvs[0]).base
        indexes = [keys.index_of(each.key) for each in found.kvs]
        if indexes and indexes[0] > after + 1 and not before.kvs:
            raise PrunedError(indexes[0])
        if not indexes and not before.kvs and after > base:
            raise ends_before(after, (await self.span()).last)
        if not indexes and after < base:
            raise PrunedError(base + 1)
        for index, expected in zip(indexes, range(after + 1, after + 1 + len(indexes)), strict=True):
            if index != expected:
                raise LogDamagedError(f"the log lacks entry {expected}: the next one that it has is {index}")
        return [await self._entry(each) for each in found.kvs], answer.header.revision, found.more

    async def _entry(self, found: pb.KeyValue) -> LogEntry:
        """Reads an entry with its other parts."""
        keys, index = self._keys, self._keys.index_of(found.key)
        try:
            last = read_value(found.value)
        except struct.error as error:
            raise _unreadable(found, error) from None
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
        return OwnLease(granted.TTL, sent, self._etcd.now), granted.ID

    async def _revoke(self, lease: int) -> None:
        with suppress(LogError):
            await self._etcd.revoke(lease)

    async def _remove_void_parts(self, leader: Leader) -> None:
        """Removes parts of an entry that a leader before this one did not finish.

        Each set of parts is removed by its name. An attempt that arrives late must not remove parts that this leader
        has written meanwhile.
        """
        keys = self._keys
        answer = await self._settled(lambda: self._etcd.txn(pb.TxnRequest(success=keys.ends())))
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


def _leader_of(found: pb.KeyValue) -> Leader:
    term, _, announcement = found.value.partition(b"\n")
    return Leader(
        _term_in(found, term, "remove this key, and another leader is elected"), found.create_revision, announcement
    )


def _generation_in(found: pb.KeyValue) -> Generation:
    try:
        return _decode_generation(found.value)
    except msgspec.MsgspecError as error:
        raise _unreadable(found, error) from None


def _term_in(found: pb.KeyValue, digits: bytes, remedy: str = _PUT_BACK) -> int:
    try:
        return int(digits)
    except ValueError as error:
        raise _unreadable(found, error, remedy) from None


def _unreadable(found: pb.KeyValue, error: Exception, remedy: str = _PUT_BACK) -> LogDamagedError:
    return LogDamagedError(f"{found.key!r} in etcd has what no leader has written ({error}): {remedy}")


def _own_generation(found: Sequence[pb.KeyValue], candidate: Candidate) -> tuple[int, int]:
    """Returns the term floor and the base of the generation, which must be the candidate's."""
    if not found:
        raise not_begun()
    generation = _generation_in(found[0])
    if generation.id != candidate.generation:
        raise GenerationError(
            f"the log has generation {generation.id}, and this store belongs to {candidate.generation}"
        )
    return generation.term_floor, generation.base


def _attempts(seconds: float) -> int:
    return int(seconds / CALL_SECONDS)
