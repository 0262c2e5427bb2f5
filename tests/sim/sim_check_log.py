"""Checks the log and the stores that follow it.

The log in the simulated etcd is the truth: a batch is durable from the moment at which etcd has it. All other checkers
see batches in its order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import apsw
import msgspec
from sim_etcd import Clock, SimEtcd, _Writing
from sim_violation import Violation

from gowork.leader._core.model import Now, Position
from gowork.leader._replication import announcement
from gowork.leader._replication.registers import Registration
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.values import joined, read_value
from gowork.leader.log.entries import NO_HASH, ChainError, Kind, unseal
from gowork.leader.log.protocol import Generation
from gowork.leader.store._sqlite_digest import _ROWS
from gowork.leader.store.batches import decode_batch

if TYPE_CHECKING:
    from sim_several import SeveralWorld

#: The prefix of the log's keys.
PREFIX = b"gowork/"
_encode = msgspec.msgpack.Encoder().encode


class CheckedEtcd(SimEtcd):
    """An etcd whose every change is checked, at the moment at which it comes about."""

    def __init__(self, clock: Clock, checks: LogChecks) -> None:
        super().__init__(clock)
        self._checks = checks
        self._is_ending_lease = False
        checks.etcd = self

    def found(self, key: bytes) -> bytes | None:
        """Returns the value of a key below the prefix."""
        found = self._found.get(PREFIX + key)
        return None if found is None else found.value

    def has_entries(self) -> bool:
        """Whether the log has any entry."""
        return bool(self._keys_in(PREFIX + b"log/", PREFIX + b"log0"))

    def first_entry(self) -> int:
        """Returns the index of the first entry that the log has; there is one."""
        return int(self._keys_in(PREFIX + b"log/", PREFIX + b"log0")[0].rpartition(b"/")[2], 16)

    def leads_for(self) -> float | None:
        """Returns for how long the lease of who leads goes on unless it is renewed, in seconds; None: nobody leads."""
        leader = self._found.get(PREFIX + b"leader")
        return None if leader is None else self._leases[leader.lease].until - self._clock.now()

    def _end(self, number: int) -> None:
        self._is_ending_lease = True
        try:
            super()._end(number)
        finally:
            self._is_ending_lease = False

    def _changed(self, writing: _Writing) -> None:
        super()._changed(writing)
        for event in writing.events:
            self._checks.changed(event, by_lease=self._is_ending_lease)


class LogChecks:
    """Checks what happens to the log, what each store has, and what leaves a leader that leads no more."""

    def __init__(self, world: SeveralWorld) -> None:
        self._world = world
        self.etcd: CheckedEtcd
        #: {(term, index): the times that the leader read while it made the batch of this entry}
        self.decided: dict[tuple[int, int], list[Now]] = {}
        #: The end of the log, and the term of its last entry.
        self.end = Position("", 0, NO_HASH)
        self.term = 0
        #: {index: hash of the entry}, {index: digest of the store that was there first}
        self._hashes: dict[int, bytes] = {0: NO_HASH}
        self._digests: dict[int, bytes] = {}
        #: The term of who leads, and the token of the leadership; 0: nobody leads.
        self._leads = self._token = 0
        self._last_led = 0
        #: {token: when its leadership ended, in the world's seconds}, and of those the ones whose lease ran out.
        self._ended: dict[int, float] = {}
        self._ran_out: set[int] = set()
        #: {leader: up to where its disk has the log}
        self._forced: dict[str, int] = {}

    # What etcd does.

    def changed(self, event: pb.Event, *, by_lease: bool) -> None:
        """Checks a change of a key."""
        kind, _, rest = event.kv.key.removeprefix(PREFIX).partition(b"/")
        is_put = event.type == pb.Event.PUT
        if kind == b"leader":
            if self._token:
                self._ended[self._token] = self._world.loop.now
                if by_lease:
                    self._ran_out.add(self._token)
            self._leads = self._token = 0
            if is_put:
                self._elected(event.kv)
        elif kind == b"log" and is_put:
            self._appended(int(rest, 16), event.kv.value)
        elif kind == b"note" and is_put and rest.startswith(b"store/"):
            self._registered(msgspec.json.decode(event.kv.value, type=Registration))
        elif kind == b"log" and not self.etcd.has_entries():
            raise Violation("the log keeps its last entry", rest.decode(), "was removed")
        elif kind == b"generation" and is_put:
            generation = msgspec.json.decode(event.kv.value, type=Generation)
            self.end = Position(generation.id, generation.base, NO_HASH)

    def _elected(self, found: pb.KeyValue) -> None:
        words, _, said = found.value.partition(b"\n")
        self._leads, self._token = int(words), found.create_revision
        name = announcement.decode(said).name
        self._world.trace.note("log", name, "is elected, term", self._leads)
        self._world.trace.seen["log: a leader is elected"] += 1
        if self._leads <= max(self._last_led, self.term):
            raise Violation("terms only grow", self._leads, "after", self._last_led, "and", self.term)
        self._last_led = self._leads
        applied = self._world.applied(name)
        if applied is not None and self.etcd.has_entries() and applied + 1 < self.etcd.first_entry():
            raise Violation("an election looks at the log", name, "has applied", applied, "only")

    def _registered(self, store: Registration) -> None:
        name, on_disk = store.leader.name, self._forced.get(store.leader.name, 0)
        if store.forced > on_disk:
            raise Violation(
                "what is forced is on the disk", name, "has", on_disk, "there, and said to have", store.forced
            )

    def _appended(self, index: int, value: bytes) -> None:
        last = read_value(value)
        parts = [
            self.etcd.found(b"part/%016x/%s/%08x" % (index, last.nonce.hex().encode(), n)) for n in range(last.before)
        ]
        if None in parts:
            raise Violation("an entry has all its parts", index)
        try:
            entry, self.end = unseal(self.end, index, joined([part for part in parts if part is not None], last))
        except ChainError as error:
            raise Violation("the log is one chain", error) from error
        if entry.term != self._leads:
            raise Violation("who leads alone appends", "term", entry.term, "appended while", self._leads, "led")
        self.term, self._hashes[index] = entry.term, self.end.hash
        if last.before:
            self._world.trace.seen["log: an entry in parts"] += 1
        if entry.kind is Kind.BATCH:
            world = self._world
            decided = self.decided.pop((entry.term, index))
            world.checks.committed(decode_batch(entry.body), decided, world.wall_ms_lately())

    # What a store has.

    def stands(self, name: str, connection: apsw.Connection, position: Position) -> None:
        """Checks a store after each transaction, and when it is opened. No transaction is open."""
        index = position.index
        if index > self.end.index:
            raise Violation("no store is ahead of the log", name, "has applied", index, "of", self.end.index)
        if position.hash != self._hashes[index]:
            raise Violation("every store equals a prefix of the log", name, "has another entry", index)
        digest = _digest(connection)
        if self._digests.setdefault(index, digest) != digest:
            raise Violation("every store equals a prefix of the log", name, "differs after entry", index)

    def forced(self, name: str, index: int) -> None:
        """Is told up to where the disk of a leader has the log."""
        self._forced[name] = max(self._forced.get(name, 0), index)

    def opened(self, name: str, store_id: str, index: int) -> None:
        """Checks a store that is opened: it has what it said to have forced to disk."""
        note = self.etcd.found(b"note/store/" + store_id.encode())
        if note is not None and index < (forced := msgspec.json.decode(note, type=Registration).forced):
            raise Violation("what is forced is on the disk", name, "has applied", index, "and said to have", forced)

    def set_aside(self, name: str, applied: int) -> None:
        """Checks a store that is to be replaced by a copy."""
        if self.etcd.first_entry() <= applied + 1:
            raise Violation("a store that can go on is not set aside", name, "has applied", applied)

    # What leaves a leader.

    def leads(self, term: int) -> bool:
        """Whether the last entry is of this term, so that the store of its leader has all that is in the log."""
        return self.term == term

    def leaves(self, name: str, token: int) -> None:
        """Checks a leader that lets something out: the lease on which it rests has not run out."""
        if token in self._ran_out:
            raise Violation("nothing leaves after the own lease", name, "led until", self._ended[token])

    def is_over(self, token: int) -> bool:
        """Whether a leadership has ended, which its leader may not know."""
        return token in self._ended

    def answered(self, name: str, token: int, asked: float) -> None:
        """Checks an answer to a question that a caller asked at this time."""
        ended = self._ended.get(token)
        if ended is not None and ended < asked:
            raise Violation("nothing is answered that was asked after deposition", name, "led until", ended)


def _digest(connection: apsw.Connection) -> bytes:
    """Does what LoggedStore.digest does, on a connection that is there."""
    hashed = hashlib.sha256()
    for statement in _ROWS:
        hashed.update(_encode(connection.execute(statement).fetchall()))
    return hashed.digest()
