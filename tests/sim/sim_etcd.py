"""An etcd in memory: what its state is, and what each request does to it.

A request is done whole, at one moment. `sim_etcd_calls` has clients call it, over a network that loses and delays. A
test compares each answer and each error with those of a real etcd.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, Protocol

import grpc

from gowork.leader.log._etcd import etcd_pb2 as pb

#: No lease is shorter, in seconds: one and a half of etcd's usual election time-outs, rounded up.
LEASE_SECONDS_MIN = 2
#: A range with this end has all keys from its first one on.
_NO_END = b"\0"


class SimEtcdError(Exception):
    """What etcd answers instead of doing something.

    Args:
        code: the status of gRPC.
        details: etcd's own words.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code, self.details = code, details


class Clock(Protocol):
    """The clock of etcd."""

    def now(self) -> float:
        """Returns seconds."""
        ...

    def later(self, seconds: float, function: Callable[[], object]) -> object:
        """Calls the function after some seconds."""
        ...


class Change(NamedTuple):
    """What one revision changed."""

    revision: int
    events: Sequence[pb.Event]


class _Lease:
    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.until = 0.0
        self.keys: set[bytes] = set()


class SimEtcd:
    """One etcd. All its members have the same state at any time, so each read is linearizable.

    Args:
        clock: leases end by it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.revision = 1
        #: What was before this revision is forgotten; -1: nothing is.
        self.compacted = -1
        #: Whether the alarm NOSPACE is on.
        self.is_full = False
        #: Each is called after each change, and after each compaction.
        self.watchers: dict[Callable[[], object], None] = {}
        self._keys: list[bytes] = []
        self._found: dict[bytes, pb.KeyValue] = {}
        self._changes: list[Change] = []
        self._leases: dict[int, _Lease] = {}
        self._leases_given = 0

    def do(self, request: object) -> Any:
        """Does a request of any kind.

        Raises:
            SimEtcdError: it was refused. Nothing has changed.
        """
        self._end_leases()
        match request:
            case pb.RangeRequest():
                return self._range(request, self.revision)
            case pb.TxnRequest():
                return self._txn(request)
            case pb.CompactionRequest():
                return self._compact(request.revision)
            case pb.LeaseGrantRequest():
                return self._grant(request)
            case pb.LeaseRevokeRequest():
                return self._revoke(request.ID)
            case pb.LeaseKeepAliveRequest():
                return self._keep_alive(request.ID)
            case pb.AlarmRequest():
                return self._alarm(request)
            case pb.StatusRequest():
                return pb.StatusResponse(header=self.header(), version="3.5.0", leader=1)
            case _:
                raise AssertionError(f"etcd is asked something that the log does not use: {request}")

    def header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(revision=self.revision)

    def changes(self, key: bytes, end: bytes, since: int) -> Iterator[Change]:
        """Yields what has changed in a range of keys since a revision, that one included."""
        begin = bisect_left(self._changes, since, key=lambda change: change.revision)
        for change in self._changes[begin:]:
            events = [event for event in change.events if _is_in(event.kv.key, key, end)]
            if events:
                yield Change(change.revision, events)

    def extend_leases(self) -> None:
        """Has all leases last as long as when they were given. etcd's members do that when they have a new leader."""
        for lease, each in self._leases.items():
            self._renew(lease, each)

    def end_lease(self, lease: int) -> None:
        """Has a lease run out now."""
        self._leases[lease].until = self._clock.now()
        self._end_leases()

    def lease_holds(self, lease: int) -> bool:
        """Whether a lease is there."""
        return lease in self._leases and self._clock.now() < self._leases[lease].until

    def copy(self) -> SimEtcd:
        """Returns another etcd with the same state, and without watchers."""
        other = copy(self)
        other.watchers = {}
        other._keys, other._found, other._changes = list(self._keys), dict(self._found), list(self._changes)
        other._leases = {}
        for number, lease in self._leases.items():
            kept = other._leases[number] = copy(lease)
            kept.keys = set(lease.keys)
        return other

    def leases(self) -> dict[int, frozenset[bytes]]:
        """Returns {lease: the keys that are on it} for each lease that there is."""
        return {number: frozenset(lease.keys) for number, lease in self._leases.items()}

    def state(self) -> tuple[object, ...]:
        """Returns all that decides what later answers are, except leases and how long they last."""
        return (
            self.revision,
            self.compacted,
            self.is_full,
            tuple(self._found[key].SerializeToString(deterministic=True) for key in self._keys),
            tuple(sorted(self._leases)),
        )

    def _range(self, request: pb.RangeRequest, revision: int) -> pb.RangeResponse:
        assert not request.revision
        assert request.sort_target == pb.RangeRequest.KEY
        if not request.key:
            raise _no_key()
        keys = self._keys_in(request.key, request.range_end)
        if request.sort_order == pb.RangeRequest.DESCEND:
            keys.reverse()
        answer = pb.RangeResponse(header=pb.ResponseHeader(revision=revision), count=len(keys))
        if request.count_only:
            return answer
        answer.more = bool(0 < request.limit < len(keys))
        for key in keys[: request.limit or None]:
            answer.kvs.append(self._found[key])
            if request.keys_only:
                answer.kvs[-1].ClearField("value")
        return answer

    def _txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        asked = [_asked(each) for each in (*request.success, *request.failure)]
        if not all(each.key for each in (*request.compare, *asked)):
            raise _no_key()
        for operations in (request.success, request.failure):
            _check_keys(operations)
        succeeded = all(self._holds(compare) for compare in request.compare)
        operations = request.success if succeeded else request.failure
        if self.is_full and any(_writes(each) for each in (request.success, request.failure)):
            raise SimEtcdError(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        for operation in operations:
            if operation.request_put.lease and operation.request_put.lease not in self._leases:
                raise _no_lease()
        writing = _Writing(self.revision + 1)
        answer = pb.TxnResponse(succeeded=succeeded)
        for operation in operations:
            answer.responses.append(self._operate(operation, writing))
        self._changed(writing)
        answer.header.revision = self.revision
        return answer

    def _operate(self, operation: pb.RequestOp, writing: _Writing) -> pb.ResponseOp:
        match operation.WhichOneof("request"):
            case "request_range":
                revision = writing.revision if writing.events else self.revision
                return pb.ResponseOp(response_range=self._range(operation.request_range, revision))
            case "request_put":
                self._put(operation.request_put, writing)
                header = pb.ResponseHeader(revision=writing.revision)
                return pb.ResponseOp(response_put=pb.PutResponse(header=header))
            case "request_delete_range":
                asked = operation.request_delete_range
                deleted = self._delete(self._keys_in(asked.key, asked.range_end), writing)
                header = pb.ResponseHeader(revision=writing.revision if writing.events else self.revision)
                return pb.ResponseOp(response_delete_range=pb.DeleteRangeResponse(header=header, deleted=deleted))
            case _:
                raise AssertionError(operation)

    def _put(self, request: pb.PutRequest, writing: _Writing) -> None:
        key, before = request.key, self._found.get(request.key)
        if before is None:
            insort(self._keys, key)
        elif before.lease:
            self._leases[before.lease].keys.discard(key)
        if request.lease:
            self._leases[request.lease].keys.add(key)
        now = self._found[key] = pb.KeyValue(
            key=key,
            create_revision=writing.revision if before is None else before.create_revision,
            mod_revision=writing.revision,
            version=1 if before is None else before.version + 1,
            value=request.value,
            lease=request.lease,
        )
        writing.events.append(pb.Event(type=pb.Event.PUT, kv=now))

    def _delete(self, keys: Sequence[bytes], writing: _Writing) -> int:
        for key in keys:
            before = self._found.pop(key)
            self._keys.remove(key)
            if before.lease:
                self._leases[before.lease].keys.discard(key)
            gone = pb.KeyValue(key=key, mod_revision=writing.revision)
            writing.events.append(pb.Event(type=pb.Event.DELETE, kv=gone))
        return len(keys)

    def _changed(self, writing: _Writing) -> None:
        if writing.events:
            self.revision = writing.revision
            self._changes.append(Change(writing.revision, tuple(writing.events)))
            self._wake()

    def _holds(self, compare: pb.Compare) -> bool:
        keys = self._keys_in(compare.key, compare.range_end)
        if not keys:
            # A key that is not there has no value, and has 0 for everything else.
            return compare.target != pb.Compare.VALUE and _compares(compare, pb.KeyValue())
        return all(_compares(compare, self._found[key]) for key in keys)

    def _compact(self, revision: int) -> pb.CompactionResponse:
        if revision <= self.compacted:
            raise SimEtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        if revision > self.revision:
            raise SimEtcdError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        self.compacted = revision
        self._changes = [change for change in self._changes if change.revision >= revision]
        self._wake()
        return pb.CompactionResponse(header=self.header())

    def _grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantResponse:
        if self.is_full:
            raise SimEtcdError(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
        number = request.ID
        if not number:
            self._leases_given += 1
            number = self._leases_given
        if number in self._leases:
            raise SimEtcdError(grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists")
        lease = self._leases[number] = _Lease(max(request.TTL, LEASE_SECONDS_MIN))
        self._renew(number, lease)
        return pb.LeaseGrantResponse(header=self.header(), ID=number, TTL=lease.seconds)

    def _revoke(self, number: int) -> pb.LeaseRevokeResponse:
        if number not in self._leases:
            raise _no_lease()
        self._end(number)
        return pb.LeaseRevokeResponse(header=self.header())

    def _keep_alive(self, number: int) -> pb.LeaseKeepAliveResponse:
        lease = self._leases.get(number)
        if lease is None:
            return pb.LeaseKeepAliveResponse(header=self.header(), ID=number)
        self._renew(number, lease)
        return pb.LeaseKeepAliveResponse(header=self.header(), ID=number, TTL=lease.seconds)

    def _renew(self, number: int, lease: _Lease) -> None:
        lease.until = self._clock.now() + lease.seconds
        self._clock.later(lease.seconds, self._end_leases)

    def _end_leases(self) -> None:
        now = self._clock.now()
        for number in [number for number, lease in self._leases.items() if lease.until <= now]:
            self._end(number)

    def _end(self, number: int) -> None:
        writing = _Writing(self.revision + 1)
        self._delete(sorted(self._leases[number].keys), writing)
        del self._leases[number]
        self._changed(writing)

    def _alarm(self, request: pb.AlarmRequest) -> pb.AlarmResponse:
        told = self.is_full
        if request.action != pb.AlarmRequest.GET:
            assert request.alarm == pb.NOSPACE
            self.is_full = request.action == pb.AlarmRequest.ACTIVATE
            # What was switched on or off is told.
            told = told or self.is_full
        alarms = [pb.AlarmMember(alarm=pb.NOSPACE)] if told else []
        return pb.AlarmResponse(header=self.header(), alarms=alarms)

    def _keys_in(self, key: bytes, end: bytes) -> list[bytes]:
        if not end:
            return [key] if key in self._found else []
        keys = self._keys
        return keys[bisect_left(keys, key) : None if end == _NO_END else bisect_left(keys, end)]

    def _wake(self) -> None:
        for watcher in list(self.watchers):
            watcher()


class _Writing:
    """What one transaction has written so far."""

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.events: list[pb.Event] = []


def _asked(operation: pb.RequestOp) -> Any:
    """Returns what the operation is: a read, a put or a removal."""
    return getattr(operation, operation.WhichOneof("request") or "")


def _check_keys(operations: Sequence[pb.RequestOp]) -> None:
    """Refuses what writes a key twice."""
    written: set[bytes] = set()
    removed: list[tuple[bytes, bytes]] = []
    for operation in operations:
        asked = _asked(operation)
        if isinstance(asked, pb.DeleteRangeRequest):
            removed.append((asked.key, asked.range_end))
        elif isinstance(asked, pb.PutRequest):
            if asked.key in written:
                raise _duplicate_key()
            written.add(asked.key)
    # etcd overlooks ranges without an end.
    if any(_is_in(key, *each) for key in written for each in removed if each[1] != _NO_END):
        raise _duplicate_key()


def _is_in(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return start <= key and (end == _NO_END or key < end)


def _writes(operations: Sequence[pb.RequestOp]) -> bool:
    return any(operation.HasField("request_put") for operation in operations)


def _compares(compare: pb.Compare, found: pb.KeyValue) -> bool:
    match compare.target:
        case pb.Compare.VERSION:
            has, wanted = found.version, compare.version
        case pb.Compare.CREATE:
            has, wanted = found.create_revision, compare.create_revision
        case pb.Compare.MOD:
            has, wanted = found.mod_revision, compare.mod_revision
        case pb.Compare.LEASE:
            has, wanted = found.lease, compare.lease
        case _:
            return _ordered(compare.result, found.value, compare.value)
    return _ordered(compare.result, has, wanted)


def _ordered(result: int, has: int | bytes, wanted: int | bytes) -> bool:
    match result:
        case pb.Compare.EQUAL:
            return has == wanted
        case pb.Compare.NOT_EQUAL:
            return has != wanted
        case pb.Compare.GREATER:
            return has > wanted  # type: ignore[operator]
        case _:
            return has < wanted  # type: ignore[operator]


def _no_key() -> SimEtcdError:
    return SimEtcdError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided")


def _duplicate_key() -> SimEtcdError:
    return SimEtcdError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")


def _no_lease() -> SimEtcdError:
    return SimEtcdError(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
