"""The bytes of a batch, as an entry of the log carries it.

They are msgpack arrays that only grow at their end. Standings travel as the bytes that the leader has stored, and
`decode_batch` keeps these bytes. So a store that follows writes fields that its version does not know.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from gowork.leader._core.model import Fact, FactKey, LaneKey
from gowork.leader.store.codec import decode_standing, encode_standing
from gowork.leader.store.protocol import Batch, DeletedTask, MovedTask, NewTask, Record, StoreError


class _NewTask(Struct, frozen=True, array_like=True, gc=False):
    seq: int
    id: str
    changed: int
    body: bytes
    state: bytes
    #: Its place in _Batch.lanes.
    lane: int
    labels: tuple[tuple[str, str], ...]
    expires_ms: int


class _MovedTask(Struct, frozen=True, array_like=True, gc=False):
    seq: int
    changed: int
    state: bytes
    lane: int | None
    expires_ms: int


class _DeletedTask(Struct, frozen=True, array_like=True, gc=False):
    seq: int
    id: str
    changed: int


class _Fact(Struct, frozen=True, array_like=True, gc=False):
    kind: str
    key: str
    value: bytes


class _Batch(Struct, frozen=True, array_like=True, gc=False):
    #: The lanes of all tasks, each once. A lane with more fields than this version knows is refused, because its tasks
    #: would wait in the wrong one.
    lanes: list[LaneKey]
    inserts: list[_NewTask]
    moves: list[_MovedTask]
    deletes: list[_DeletedTask]
    facts: list[_Fact]
    facts_gone: list[FactKey]
    tombstones_before: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Batch).decode


def encode_batch(batch: Batch) -> bytes:
    """Returns the bytes of a batch."""
    places: dict[LaneKey, int] = {}
    inserts = []
    for new in batch.inserts:
        record = new.record
        state = new.state or encode_standing(record.standing)
        lane = places.setdefault(new.lane, len(places))
        inserts.append(
            _NewTask(record.seq, record.id, record.changed, record.body, state, lane, new.labels, new.expires_ms)
        )
    moves = []
    for moved in batch.moves:
        state = moved.state or encode_standing(moved.standing)
        into = None if moved.lane is None else places.setdefault(moved.lane, len(places))
        moves.append(_MovedTask(moved.seq, moved.changed, state, into, moved.expires_ms))
    return _encode(
        _Batch(
            list(places),
            inserts,
            moves,
            [_DeletedTask(deleted.seq, deleted.id, deleted.changed) for deleted in batch.deletes],
            [_Fact(fact.kind, fact.key, fact.value) for fact in batch.facts],
            list(batch.facts_gone),
            batch.tombstones_before,
        )
    )


def decode_batch(data: bytes) -> Batch:
    """Reads what encode_batch wrote, in this version or another.

    Raises:
        StoreError: the bytes are not a batch that this version can read.
    """
    try:
        batch = _decode(data)
        lanes = dict(enumerate(batch.lanes))
        return Batch(
            [_new_task(new, lanes[new.lane]) for new in batch.inserts],
            [_moved_task(moved, None if moved.lane is None else lanes[moved.lane]) for moved in batch.moves],
            [DeletedTask(deleted.seq, deleted.id, deleted.changed) for deleted in batch.deletes],
            [Fact(fact.kind, fact.key, fact.value) for fact in batch.facts],
            batch.facts_gone,
            batch.tombstones_before,
        )
    except (msgspec.MsgspecError, ValueError, KeyError) as error:
        raise StoreError(f"The log's batch can't be read: {error!r}.") from error


def _new_task(new: _NewTask, lane: LaneKey) -> NewTask:
    record = Record(new.seq, new.id, new.changed, new.body, decode_standing(new.state))
    return NewTask(record, lane, new.labels, new.expires_ms, new.state)


def _moved_task(moved: _MovedTask, lane: LaneKey | None) -> MovedTask:
    return MovedTask(moved.seq, moved.changed, decode_standing(moved.state), lane, moved.expires_ms, moved.state)
