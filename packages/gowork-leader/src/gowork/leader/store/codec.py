"""Turns stored bytes into the core's values and back.

Standings are msgpack arrays that only grow at their end. `_wire` reads what was asked for, when a task comes back into
memory.
"""

from __future__ import annotations

import msgspec
from google.protobuf.message import DecodeError

from gowork.leader._core.model import PENDING, Standing, Task
from gowork.leader._wire.specs import stored_spec
from gowork.leader.store.protocol import MovedTask, NewTask, Record, StoreFormatError

_decoder = msgspec.msgpack.Decoder(Standing)
encode_standing = msgspec.msgpack.Encoder().encode


def decode_standing(data: bytes) -> Standing:
    """Reads what encode_standing wrote.

    Raises:
        msgspec.DecodeError: the bytes are not a standing.
    """
    return _decoder.decode(data)


def at_ms(standing: Standing) -> int:
    """Returns the time that scans go by: when a pending task is due, when a finished one finished, otherwise 0."""
    return standing.not_before_ms if standing.status is PENDING else standing.finished_ms


def restore(record: Record) -> Task:
    """Returns the task of a record.

    Raises:
        StoreFormatError: its body can't be read.
    """
    try:
        spec = stored_spec(record.body, record.standing.created_ms)
    except DecodeError as error:
        message = f"the store is damaged: its record of task {record.id!r} can't be read; start from a backup"
        raise StoreFormatError(message) from error
    return Task(record.seq, spec, record.standing, record.changed)


def new_task(task: Task) -> NewTask:
    """Returns what the store writes of a task that it does not have yet."""
    spec = task.spec
    record = Record(task.seq, spec.id, task.changed, spec.body + spec.trace, task.standing)
    return NewTask(record, spec.lane, spec.labels, spec.expires_at_ms, encode_standing(task.standing))


def moved_task(task: Task) -> MovedTask:
    """Returns what the store writes of a task that it has."""
    standing = task.standing
    if standing.status is PENDING:
        # The task may have been finished before, which can't be seen here.
        return MovedTask(
            task.seq, task.changed, standing, task.spec.lane, task.spec.expires_at_ms, encode_standing(standing)
        )
    return MovedTask(task.seq, task.changed, standing, state=encode_standing(standing))
