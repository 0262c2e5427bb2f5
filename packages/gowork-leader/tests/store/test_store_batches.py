"""A batch comes out of an entry of the log as it went in, and standings keep the bytes that the leader has stored."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from leader_core import spec
from msgspec.structs import replace
from store_histories import histories

from gowork.leader._core.model import Standing, Status, Task
from gowork.leader.store.batches import decode_batch, encode_batch
from gowork.leader.store.codec import decode_standing, encode_standing, moved_task
from gowork.leader.store.codec import new_task as new_task_of
from gowork.leader.store.conformance import FULL_LANE, HISTORY, new_task, standing
from gowork.leader.store.protocol import Batch, MovedTask, StoreError


def encoded(batch: Batch) -> Batch:
    """The batch with the bytes of its standings, and lists as they come from an entry."""
    return Batch(
        [replace(new, state=encode_standing(new.record.standing)) for new in batch.inserts],
        [replace(moved, state=encode_standing(moved.standing)) for moved in batch.moves],
        list(batch.deletes),
        list(batch.facts),
        list(batch.facts_gone),
        batch.tombstones_before,
    )


@pytest.mark.parametrize("batch", HISTORY)
def test_every_kind_of_change_comes_out_as_it_went_in(batch: Batch) -> None:
    assert decode_batch(encode_batch(batch)) == encoded(batch)
    # A batch that came out goes in again as the same bytes.
    assert encode_batch(decode_batch(encode_batch(batch))) == encode_batch(batch)


@settings(deadline=None)
@given(histories())
def test_any_batch_comes_out_as_it_went_in(batches: list[Batch]) -> None:
    for batch in batches:
        assert decode_batch(encode_batch(batch)) == encoded(batch)


def test_tasks_of_one_lane_carry_it_once() -> None:
    def bytes_of(tasks: int) -> int:
        return len(encode_batch(Batch([new_task(seq, lane=FULL_LANE) for seq in range(10, 10 + tasks)])))

    assert bytes_of(3) - bytes_of(2) == bytes_of(2) - bytes_of(1) < len(str(FULL_LANE))
    lanes = {id(new.lane) for new in decode_batch(encode_batch(Batch([new_task(1), new_task(2)]))).inserts}
    assert len(lanes) == 1


def longer(at: Standing) -> bytes:
    """The bytes of a standing from a version that knows one field more."""
    return msgspec.msgpack.encode([*msgspec.msgpack.decode(encode_standing(at)), {"a field": "to come"}])


def test_bytes_of_a_standing_that_a_version_does_not_know_are_kept() -> None:
    state = longer(standing())
    sent = Batch(
        [replace(new_task(1), state=state)],
        [MovedTask(2, 1, standing(Status.RUNNING), state=longer(standing(Status.RUNNING)))],
    )
    received = decode_batch(encode_batch(sent))
    assert (received.inserts, received.moves) == (sent.inserts, sent.moves)
    assert received.inserts[0].record.standing == standing()


def test_fields_that_come_later_at_the_end_are_passed_over() -> None:
    batch = HISTORY[3]
    parts = msgspec.msgpack.decode(encode_batch(batch))
    for rows in parts[1:5]:
        for row in rows:
            row.append("a field to come")
    parts.append("a field to come")
    assert decode_batch(msgspec.msgpack.encode(parts)) == encoded(batch)


def lane_of_more_fields(parts: list[list[object]]) -> None:
    lane = parts[0][0]
    assert isinstance(lane, list)
    lane.append("a dimension to come")


def no_lane(parts: list[list[object]]) -> None:
    parts[0].clear()


def no_standing(parts: list[list[object]]) -> None:
    task = parts[1][0]
    assert isinstance(task, list)
    task[4] = b"\xc1"


@pytest.mark.parametrize("damage", [lane_of_more_fields, no_lane, no_standing])
def test_what_cannot_be_read_is_refused(damage: object) -> None:
    assert callable(damage)
    parts = msgspec.msgpack.decode(encode_batch(HISTORY[0]))
    damage(parts)
    with pytest.raises(StoreError, match="can't be read"):
        decode_batch(msgspec.msgpack.encode(parts))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", encode_batch(HISTORY[0])[:-1], b"\x97" + b"\x00" * 7])
def test_bytes_that_are_no_batch_are_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="can't be read"):
        decode_batch(data)


def test_the_leader_encodes_a_standing_once() -> None:
    for status in Status:
        task = Task(1, spec("a"), standing(status), 1)
        for state in (new_task_of(task).state, moved_task(task).state):
            assert decode_standing(state) == task.standing
