"""Folds entries that are written in one transaction, so that each task is written once: where it stands in the end.

Most tasks are written when they start and when they end. A store that follows and writes both together need not write
the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gowork.leader._core.model import Position
from gowork.leader.store.protocol import Batch, MovedTask, NewTask, Record, StoreError

#: (batch, position after it, term)
Entry = tuple[Batch | None, Position, int]


def groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Yields the entries in groups, in order. The batches of one group may be folded."""
    group: list[Entry] = []
    for entry in entries:
        batch, _, term = entry
        if group and (not _is_plain(batch) or term != group[-1][2]):
            yield group
            group = []
        group.append(entry)
        if not _is_plain(batch):
            yield group
            group = []
    if group:
        yield group


def folded(batches: Sequence[Batch]) -> Batch:
    """Returns one batch that writes what these write one after the other, if one after the other can be written.

    Args:
        batches: one, or several that insert and move and do nothing else.

    Raises:
        StoreError: they can't be written one after the other.
    """
    if len(batches) == 1:
        return batches[0]
    inserts: dict[int, NewTask] = {}
    moves: dict[int, MovedTask] = {}
    for batch in batches:
        for new in batch.inserts:
            seq = new.record.seq
            if seq in inserts or seq in moves:
                raise StoreError(f"Task {seq} is written before it is there, or twice for the first time.")
            inserts[seq] = new
        for moved in batch.moves:
            seq, before = moved.seq, moves.get(moved.seq)
            at_first = inserts.get(seq)
            if before is not None:
                moves[seq] = _moved_again(before, moved)
            elif at_first is None or moved.lane not in (None, at_first.lane):
                # A task's specification keeps the queue, handler and priority of the lane of its insert.
                moves[seq] = moved
            else:
                inserts[seq] = _moved_at_once(at_first, moved)
    return Batch(list(inserts.values()), list(moves.values()))


def _is_plain(batch: Batch | None) -> bool:
    """Whether the batch inserts and moves, and does nothing else."""
    if batch is None:
        return False
    return not (batch.deletes or batch.facts or batch.facts_gone or batch.tombstones_before)


def _moved_again(before: MovedTask, moved: MovedTask) -> MovedTask:
    if moved.lane is not None or before.lane is None:
        return moved
    return MovedTask(moved.seq, moved.changed, moved.standing, before.lane, before.expires_ms, moved.state)


def _moved_at_once(new: NewTask, moved: MovedTask) -> NewTask:
    record = Record(new.record.seq, new.record.id, moved.changed, new.record.body, moved.standing)
    expires_ms = new.expires_ms if moved.lane is None else moved.expires_ms
    return NewTask(record, new.lane, new.labels, expires_ms, moved.state)
