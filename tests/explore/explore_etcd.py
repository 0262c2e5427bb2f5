"""Each state that etcd was seen in, and what each request made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Set
from hashlib import sha256
from typing import Any, NamedTuple

import grpc
from explore_digest import Outside
from explore_life import PREFIX
from explore_numbers import Numbers
from explore_process import leases_of, writes
from google.protobuf.message import Message
from sim_etcd import SimEtcd, SimEtcdError
from sim_etcd_calls import Watching, rpc_error

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.requests import get
from gowork.leader.log._etcd.values import joined, read_value

GENERATION_KEY = f"{PREFIX}/generation".encode()
TERM_KEY = f"{PREFIX}/term".encode()
LEADER_KEY = f"{PREFIX}/leader".encode()
ENTRIES = f"{PREFIX}/log/".encode()
PARTS = f"{PREFIX}/part/".encode()


class StillClock:
    """The clock of etcd stands still: leases end when that is chosen."""

    def now(self) -> float:
        return 0.0

    def later(self, seconds: float, function: Any) -> object:
        return None


class Appended(NamedTuple):
    """An entry that was written."""

    place: int
    data: bytes
    hash: bytes
    #: Whether there was an entry at this index.
    replaces: bool


class EtcdState:
    """One state of etcd.

    Args:
        sim: is in this state, and stays in it.
    """

    def __init__(self, sim: SimEtcd) -> None:
        self.sim = sim
        self.revision = sim.revision
        self.leases = sim.leases()
        #: The leases that no key is on.
        self.idle_leases = {lease for lease, keys in self.leases.items() if not keys}
        leader = self._value(LEADER_KEY)
        #: The create revision of the leader's key, and the term that it names; zeros: nobody leads.
        self.token = leader.create_revision if leader is not None else 0
        self.term = int(leader.value.partition(b"\n")[0]) if leader is not None else 0
        counter = self._value(TERM_KEY)
        #: The last term that was given, as the log has it.
        self.counter = counter.value if counter is not None else b""
        generation = self._value(GENERATION_KEY)
        self.generation_id = str(json.loads(generation.value)["id"]) if generation is not None else ""
        found = self._read(ENTRIES, f"{PREFIX}/log0".encode())
        #: The indexes of the entries that the log has; zeros: none.
        self.first = int(found[0].key[len(ENTRIES) :], 16) if found else 0
        self.last = int(found[-1].key[len(ENTRIES) :], 16) if found else 0
        #: {request: (number of the state after it, number of the answer)}
        self.after: dict[int, tuple[int, int]] = {}
        #: {(key, end, revision): (number of what a watch tells next, the revision after it)}
        self.told: dict[tuple[bytes, bytes, int], tuple[int, int] | None] = {}
        #: {(key, end, revision): the revision of the next change; see next_change}
        self.next: dict[tuple[bytes, bytes, int], int] = {}
        self.hopeless: dict[int, bool] = {}

    def appended(self) -> list[Appended]:
        """Returns the entries that the last change has written."""
        found = []
        for change in self.sim.changes(b"\0", b"\0", self.revision):
            for event in change.events:
                if event.type == pb.Event.PUT and event.kv.key.startswith(ENTRIES):
                    found.append(self._entry(event.kv))
        return found

    def _entry(self, found: pb.KeyValue) -> Appended:
        index, last = int(found.key[len(ENTRIES) :], 16), read_value(found.value)
        parts: list[bytes] = []
        if last.before:
            prefix = PARTS + b"%016x/" % index + last.nonce.hex().encode() + b"/"
            parts = [part.value for part in self._read(prefix, prefix + b"\xff")]
        data = joined(parts, last)
        return Appended(index, data, sha256(data).digest(), found.version > 1)

    def _value(self, key: bytes) -> pb.KeyValue | None:
        found = self._read(key, b"")
        return found[0] if found else None

    def _read(self, key: bytes, end: bytes) -> list[pb.KeyValue]:
        answer = self.sim.do(pb.TxnRequest(success=[get(key, end)]))
        return list(answer.responses[0].response_range.kvs)


class Etcds(Outside):
    """All states of etcd that were seen.

    Args:
        plant: changes requests, where a bug is planted.
    """

    def __init__(self, plant: Callable[[Any], Any] = lambda request: request) -> None:
        self._plant = plant
        self._states: Numbers[EtcdState] = Numbers()
        self.requests: Numbers[Any] = Numbers()
        self.answers: Numbers[Any] = Numbers()
        #: {request: the leases that it names}
        self._leases: dict[int, tuple[int, ...]] = {}
        #: The number of the answer of an etcd that has no room.
        no_room = "etcdserver: mvcc: database space exceeded"
        self.full = self.answer(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, no_room))

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, number: int) -> EtcdState:
        return self._states[number]

    def keys(self) -> Set[Hashable]:
        """Returns what stands for each state."""
        return self._states.keys()

    def add(self, sim: SimEtcd) -> int:
        """Returns the number of a state."""
        changes = tuple(
            (change.revision, tuple((event.type, event.kv.key) for event in change.events))
            for change in sim.changes(b"\0", b"\0", 0)
        )
        key = sim.state(), tuple(sorted(sim.leases().items())), changes
        number = self._states.find(key)
        return self._states.of(key, EtcdState(sim)) if number is None else number

    def request(self, request: Any) -> int:
        """Returns the number of a request."""
        request = self._plant(request)
        return self.requests.of((type(request).__name__, request.SerializeToString(deterministic=True)), request)

    def leases_of(self, request: int) -> tuple[int, ...]:
        """Returns the leases that a request names."""
        found = self._leases.get(request)
        if found is None:
            found = self._leases[request] = tuple(leases_of(self.requests[request]))
        return found

    def put_on(self, request: int) -> tuple[int, ...]:
        """Returns the leases that a request puts a key on."""
        return self.leases_of(request) if isinstance(self.requests[request], pb.TxnRequest) else ()

    def writes(self, request: int) -> bool:
        """Whether a request may change something."""
        return writes(self.requests[request])

    def do(self, number: int, request: int) -> tuple[int, int]:
        """Returns the number of the state after a request, and that of its answer."""
        before = self._states[number]
        after = before.after.get(request)
        if after is None:
            sim = before.sim.copy()
            try:
                answer: Any = sim.do(self.requests[request])
            except SimEtcdError as error:
                answer = rpc_error(error.code, error.details)
            after = before.after[request] = self.add(sim), self.answer(answer)
        return after

    def end_lease(self, number: int, lease: int) -> int:
        """Returns the number of the state after the end of a lease."""
        before = self._states[number]
        after = before.after.get(~lease)
        if after is None:
            sim = before.sim.copy()
            sim.end_lease(lease)
            after = before.after[~lease] = self.add(sim), 0
        return after[0]

    def answer(self, answer: Any) -> int:
        """Returns the number of an answer."""
        if isinstance(answer, Message):
            key: object = (type(answer).__name__, answer.SerializeToString(deterministic=True))
        else:
            key = (answer.code(), answer.details())
        return self.answers.of(key, answer)

    def next_told(self, number: int, key: bytes, end: bytes, revision: int) -> tuple[int, int] | None:
        """Returns what a watch tells next, and from which revision on it then goes on; None: nothing yet."""
        state = self._states[number]
        asked = key, end, revision
        if asked not in state.told:
            watching = Watching(state.sim, pb.WatchCreateRequest(key=key, range_end=end, start_revision=revision))
            answer = watching.next_answer()
            state.told[asked] = None if answer is None else (self.answer(answer), watching.next)
        return state.told[asked]

    def next_change(self, number: int, key: bytes, end: bytes, revision: int) -> int:
        """Returns the revision of the next change that a watch tells, or the next revision; 1: it is forgotten."""
        state = self._states[number]
        asked = key, end, revision
        if asked not in state.next:
            change = next(state.sim.changes(key, end, revision), None)
            is_forgotten = revision < state.sim.compacted
            state.next[asked] = 1 if is_forgotten else state.revision + 1 if change is None else change.revision
        return state.next[asked]

    def is_hopeless(self, number: int, request: int) -> bool:
        """Whether a request can't change anything any more, whenever it arrives."""
        state = self._states[number]
        found = state.hopeless.get(request)
        if found is None:
            found = state.hopeless[request] = self._is_hopeless(state, self.requests[request])
        return found

    def _is_hopeless(self, state: EtcdState, request: Any) -> bool:
        if isinstance(request, pb.LeaseGrantRequest):
            # Nobody would use the lease.
            return True
        if isinstance(request, pb.LeaseRevokeRequest):
            return request.ID not in state.leases
        if isinstance(request, pb.CompactionRequest):
            return request.revision <= state.sim.compacted
        if any(lease not in state.leases for lease in leases_of(request)):
            return True
        return any(_never_holds(state, compare) for compare in request.compare)


def _never_holds(state: EtcdState, compare: pb.Compare) -> bool:
    """Whether a comparison fails for ever: a leadership that is over never comes back, and terms only grow."""
    if compare.key == LEADER_KEY and compare.target == pb.Compare.CREATE:
        return compare.result == pb.Compare.EQUAL and compare.create_revision not in (0, state.token)
    return compare.key == TERM_KEY and compare.target == pb.Compare.VALUE and compare.value != state.counter
