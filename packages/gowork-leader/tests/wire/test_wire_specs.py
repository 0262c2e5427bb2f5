"""What a task asks for, from the message and from what the store keeps of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from google.protobuf.message import DecodeError

from gowork.leader._core.model import OnLost, Priority
from gowork.leader._core.ranges import RANGE_KEY
from gowork.leader._wire import specs
from gowork.leader._wire.rests import Rests
from gowork.leader._wire.specs import spec_from, stored_spec, trace_bytes
from gowork.proto.limits import TIME_MS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

CREATED_MS = 1_700_000_000_000
CONTEXT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TASKS = {
    "plain": pb.Task(id="t", payload="p"),
    "in a lane": pb.Task(id="t", queue="q", handler="h", priority=pb.TASK_PRIORITY_HIGH, selector={"b": "1", "a": "2"}),
    "keyed and labelled": pb.Task(id="t", concurrency_key="k", labels={"z": "1", "y": "2"}),
    "in moments": pb.Task(id="t", run_at_ms=CREATED_MS + 1, expires_at_ms=CREATED_MS + 2, time_limit_ms=3),
    "in lengths of time": pb.Task(id="t", delay_ms=5, expires_in_ms=7),
    "with a policy": pb.Task(id="t", retry=pb.RetryPolicy(max_attempts=3, no_retry=["ValueError"])),
    "traced": pb.Task(id="t", data=b"d", traceparent=CONTEXT, tracestate="a=b"),
    "traced, with a form": pb.Task(id="t", payload="p", traceparent=CONTEXT, payload_form=pb.PAYLOAD_FORM_TEXT),
    "not to run twice": pb.Task(id="t", payload="p", on_lost=pb.ON_LOST_FAIL),
    "with a form": pb.Task(id="t", payload="p", payload_form=pb.PAYLOAD_FORM_TEXT),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_what_is_stored_reads_as_what_was_asked(task: pb.Task) -> None:
    asked = spec_from(pb.Task.FromString(task.SerializeToString()))
    assert stored_spec(asked.body + asked.trace, CREATED_MS) == asked.reckoned(CREATED_MS)
    assert pb.Task.FromString(asked.body + asked.trace) == task


def test_what_a_task_says_of_losses_is_known_also_when_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_stored", Rests())
    for number, on_lost in ((0, None), (1, OnLost.AGAIN), (2, OnLost.FAIL), (9, None)):
        stored = pb.Task(id="t", payload="p", on_lost=number).SerializeToString()  # type: ignore[arg-type]
        assert [stored_spec(stored, CREATED_MS).on_lost for _ in range(2)] == [on_lost, on_lost]


def test_a_range_of_versions_is_kept_in_the_selector_where_an_earlier_leader_finds_it() -> None:
    asked = spec_from(pb.Task(id="t", payload="p", selector={"gpu": "yes"}, plugin_version=">=1.2"))
    assert asked.lane.selector == ((RANGE_KEY, ">=1.2"), ("gpu", "yes"))
    kept = pb.Task.FromString(asked.body)
    assert (dict(kept.selector), kept.plugin_version) == (dict(asked.lane.selector), "")
    assert stored_spec(asked.body, CREATED_MS) == asked


def test_a_range_that_an_earlier_leader_kept_as_a_field_unknown_to_it_is_not_asked_for() -> None:
    # Its lane in the store has no range.
    stored = pb.Task(id="t", payload="p", plugin_version=">=1.2").SerializeToString()
    assert stored_spec(stored, CREATED_MS).lane.selector == ()


def test_a_unique_key_is_kept_in_the_body_and_distinguishes_tasks() -> None:
    asked = spec_from(pb.Task(id="t", payload="p", unique_key="k", unique_for_ms=5, traceparent=CONTEXT))
    assert (asked.unique_key, asked.unique_for_ms) == ("k", 5)
    assert stored_spec(asked.body + asked.trace, CREATED_MS) == asked
    assert asked.body != spec_from(pb.Task(id="t", payload="p", unique_key="l", unique_for_ms=5)).body


def test_what_only_the_leader_sets_is_not_asked_for() -> None:
    plain = spec_from(pb.Task(id="t", payload="p"))
    assert spec_from(pb.Task(id="t", payload="p", status=pb.TASK_STATUS_COMPLETED, fence=7, worker="w")) == plain


def test_the_trace_of_a_batch_is_that_of_its_tasks_without_one() -> None:
    other = trace_bytes(CONTEXT.replace("4bf9", "5bf9"), "")
    assert spec_from(pb.Task(id="t"), other).trace == other
    assert spec_from(pb.Task(id="t", traceparent=CONTEXT), other).trace == trace_bytes(CONTEXT, "")


def test_equal_bodies_are_the_same_task_whatever_its_trace() -> None:
    traced = pb.Task(id="t", payload="p", traceparent=CONTEXT, payload_form=pb.PAYLOAD_FORM_TEXT)
    assert spec_from(traced).body == spec_from(pb.Task(id="t", payload="p")).body


def test_a_trace_among_the_fields_of_a_stored_body_stays_there() -> None:
    # As a leader kept it that did not know the field: in the order of the client's own bytes.
    stored = trace_bytes(CONTEXT, "") + pb.Task(id="t", payload="p").SerializeToString()
    spec = stored_spec(stored, CREATED_MS)
    assert (spec.id, spec.body, spec.trace) == ("t", stored, b"")


def test_moments_follow_from_when_a_stored_task_was_submitted() -> None:
    asked = spec_from(pb.Task(id="t", delay_ms=5, expires_in_ms=7))
    stored = stored_spec(asked.body, CREATED_MS)
    assert (stored.run_at_ms, stored.expires_at_ms) == (CREATED_MS + 5, CREATED_MS + 7)


def test_a_task_without_queue_and_priority_has_the_defaults() -> None:
    assert (spec_from(pb.Task(id="t")).lane.queue, spec_from(pb.Task(id="t")).lane.priority) == (
        "default",
        Priority.LOW,
    )


def test_bytes_that_are_no_task_are_an_error() -> None:
    with pytest.raises(DecodeError):
        stored_spec(b"\xff\xff", CREATED_MS)


def test_the_status_alone_is_not_asked_for() -> None:
    assert spec_from(pb.Task(id="t", status=pb.TASK_STATUS_COMPLETED)) == spec_from(pb.Task(id="t"))


def test_a_stored_time_beyond_the_last_one_is_the_last_one() -> None:
    stored = pb.Task(id="t", run_at_ms=TIME_MS_MAX + 1, expires_at_ms=TIME_MS_MAX + 2).SerializeToString()
    spec = stored_spec(stored, CREATED_MS)
    assert (spec.run_at_ms, spec.expires_at_ms) == (TIME_MS_MAX, TIME_MS_MAX)


def test_a_bounded_number_of_lanes_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_lanes", {})
    monkeypatch.setattr(specs, "_LANES_KEPT_MAX", 2)
    lanes = [spec_from(pb.Task(id="t", queue=str(number))).lane.queue for number in range(5)]
    assert (lanes, len(specs._lanes)) == (["0", "1", "2", "3", "4"], 1)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_what_is_stored_reads_alike_whatever_was_read_before(task: pb.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_stored", Rests())
    for id, payload in (("t", "p"), ("other", "é" * 200), ("i" * 127, "x" * 16_383), ("i" * 128, "x" * 16_384)):
        mine = pb.Task.FromString(task.SerializeToString())
        mine.id = id
        if task.payload:
            mine.payload = payload
        asked = spec_from(pb.Task.FromString(mine.SerializeToString()))
        assert stored_spec(asked.body + asked.trace, CREATED_MS) == asked.reckoned(CREATED_MS)


def test_stored_tasks_that_differ_in_id_and_payload_alone_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def reads(stored: bytes) -> pb.Task:
        read.append(stored)
        return pb.Task.FromString(stored)

    stored = [pb.Task(id=id, payload=id, handler="h").SerializeToString() for id in ("a", "bb", "ccc")]
    monkeypatch.setattr(specs, "_stored", Rests())
    monkeypatch.setattr(specs, "scheduler_pb2", SimpleNamespace(Task=SimpleNamespace(FromString=reads)))
    assert [stored_spec(each, CREATED_MS).id for each in stored] == ["a", "bb", "ccc"]
    assert read == stored[:1]


@pytest.mark.parametrize(
    "damaged",
    [
        # A payload that is longer than what is there.
        b"\x0a\x01t\x12\x7fp",
        b"\x0a\x01t\x12\x85\x01p",
        b"\x0a\x7ft\x12\x01p",
        b"\x0a\x01\xff\x12\x01p",
        b"\x0a\x01t\x12",
        b"\x0a\x01t\x12\x80",
    ],
)
def test_a_damaged_task_is_an_error_whatever_was_read_before(damaged: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_stored", Rests())
    assert stored_spec(b"\x0a\x01t\x12\x01p", CREATED_MS).id == "t"
    with pytest.raises(DecodeError):
        stored_spec(damaged, CREATED_MS)


def test_of_two_ids_in_a_stored_task_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_stored", Rests())
    for id in "ab":
        stored = pb.Task(id=id, payload="p").SerializeToString() + pb.Task(id="last").SerializeToString()
        assert stored_spec(stored, CREATED_MS).id == "last"


def test_traced_tasks_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "_stored", Rests())
    for task in (pb.Task(id="t", payload="p", traceparent=CONTEXT), pb.Task(id="t", payload="p")):
        asked = spec_from(task)
        assert stored_spec(asked.body + asked.trace, CREATED_MS) == asked
    assert len(specs._stored) == 1
