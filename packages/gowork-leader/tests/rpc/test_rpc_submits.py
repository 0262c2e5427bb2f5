"""Tasks that are read once, and those that are read by what was remembered of the ones before: they are the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gowork.leader._core.model import Spec
from gowork.leader._rpc import submits
from gowork.leader._rpc.submits import Submits
from gowork.leader._rpc.validation import Violations, check_task
from gowork.leader._wire import rests
from gowork.leader._wire.specs import spec_from, trace_bytes
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

CONTEXT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACES = st.sampled_from([b"", trace_bytes(CONTEXT, ""), trace_bytes(CONTEXT, "a=b")])
TEXT = st.sampled_from(["", "h", "\n", "é" * 40, "x" * 200])
TIMES = st.sampled_from([0, 1, 1 << 40, -1, 1 << 60])
HEADS = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["", "a", "b", "é", "tab\t", "i" * 127, "i" * 128, "i" * 257]),
        "payload": st.sampled_from(["", "p", "é", "p" * 127, "p" * 128, "p" * 16_383, "p" * 16_384, "p" * (1 << 20)]),
    }
)
RESTS = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(0, 4),
        "status": st.sampled_from([pb.TASK_STATUS_COMPLETED]),
        "handler": TEXT,
        "queue": TEXT,
        "data": st.sampled_from([b"", b"d"]),
        "labels": st.dictionaries(TEXT, TEXT, max_size=3),
        "selector": st.dictionaries(TEXT, TEXT, max_size=3),
        "run_at_ms": TIMES,
        "time_limit_ms": TIMES,
        "expires_at_ms": TIMES,
        "retry": st.builds(pb.RetryPolicy, max_attempts=st.integers(0, 3), no_retry=st.lists(TEXT, max_size=2)),
        "concurrency_key": TEXT,
        "traceparent": st.sampled_from(["", CONTEXT, "nonsense"]),
        "delay_ms": TIMES,
        "expires_in_ms": TIMES,
        "payload_form": st.integers(0, 2),
        "fence": st.integers(0, 2),
        "worker": TEXT,
    },
)
#: A field that this leader does not know: number 1,000.
UNKNOWN = st.sampled_from([b"", b"\xc2\x3e\x01u"])


def plainly(sent: bytes, trace: bytes) -> tuple[Spec | None, Violations]:
    """What a task asks for, read field by field."""
    task, violations = pb.Task.FromString(sent), Violations()
    check_task(task, "", violations)
    return (None, violations) if violations else (spec_from(task, trace), [])


@given(st.lists(st.tuples(HEADS, TRACES), min_size=2, max_size=5), st.lists(RESTS, min_size=1, max_size=2), UNKNOWN)
# Chance may leave these out: what was read before must decide neither what an id is nor whose trace a task has.
@example([({"id": "a", "payload": "p"}, b""), ({"id": "tab\t", "payload": "p"}, b"")], [{}], b"")
@example([({"id": "a", "payload": "p"}, b""), ({"id": "b", "payload": "p"}, trace_bytes(CONTEXT, ""))], [{}], b"")
@example([({"id": "a", "payload": "p"}, trace_bytes(CONTEXT, "")), ({"id": "b", "payload": "p"}, b"")], [{}], b"")
def test_a_task_reads_alike_whatever_was_read_before(
    heads: list[tuple[dict[str, str], bytes]], others: list[dict[str, object]], unknown: bytes
) -> None:
    reading = Submits()
    for head, trace in heads:
        for rest in others:
            sent = pb.Task(**head, **rest).SerializeToString() + unknown  # type: ignore[arg-type]
            violations = Violations()
            spec = reading.spec(pb.Task.FromString(sent), trace, violations)
            assert (spec, violations) == plainly(sent, trace)


@pytest.mark.parametrize(
    "rest", [{}, {"handler": "h", "labels": {"b": "1", "a": "2"}}, {"payload_form": 1, "worker": "w", "status": 3}]
)
def test_what_differs_in_id_and_payload_alone_is_checked_once(
    monkeypatch: pytest.MonkeyPatch, rest: dict[str, object]
) -> None:
    checked: list[str] = []

    def check(task: pb.Task, prefix: str, violations: Violations) -> None:
        checked.append(task.id)
        check_task(task, prefix, violations)

    monkeypatch.setattr(submits, "check_task", check)
    reading = Submits()
    for id, payload in [("a", "1"), ("b", "2"), ("a longer id", "3" * 1000)]:
        sent = pb.Task(id=id, payload=payload, **rest).SerializeToString()  # type: ignore[arg-type]
        assert reading.spec(pb.Task.FromString(sent), b"", []) == plainly(sent, b"")[0]
    assert checked == ["a"]


def test_what_is_remembered_is_bounded() -> None:
    reading = Submits()
    for number in range(rests.KNOWN_MAX + 10):
        reading.spec(pb.Task(id="t", payload="p", handler=f"h{number}"), b"", [])
    known = len(reading._rests)
    assert 0 < known <= rests.KNOWN_MAX
    reading.spec(pb.Task(id="t", payload="p", labels={"k": "v" * 250, "l": "v" * 250}), b"", [])
    assert len(reading._rests) == known
