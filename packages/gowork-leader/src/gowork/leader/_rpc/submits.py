"""Reads the tasks that clients schedule: checks each, and makes of it what the core takes.

Tasks of one producer differ in their ids and payloads, and mostly in nothing else. So what follows these two in the
bytes of a task is checked and translated once, and remembered: reading a field of a message costs more than all that is
done with it.
"""

from __future__ import annotations

from typing import NamedTuple

from gowork.leader._core.model import LaneKey, RetryPolicy, Spec
from gowork.leader._rpc.validation import Violations, check_task
from gowork.leader._wire.specs import spec_from
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

#: How many rests are remembered, and how many bytes each may have. They take some 4 MB together.
_KNOWN_MAX = 4096
_REST_BYTES_MAX = 256
#: How the fields `id` (1) and `payload` (2) begin.
_ID, _PAYLOAD = 0x0A, 0x12
#: A length below this takes one byte.
_ONE_BYTE = 0x80


class _Rest(NamedTuple):
    """What a task asks for, besides its id and its payload."""

    lane: LaneKey
    #: The bytes of it in `Spec.body`; None: they are those that were sent.
    body: bytes | None
    run_at_ms: int
    expires_at_ms: int
    retry: RetryPolicy | None
    labels: tuple[tuple[str, str], ...]
    #: What it puts behind the trace context of its batch in `Spec.trace`.
    form: bytes
    delay_ms: int
    expires_in_ms: int
    time_limit_ms: int


class Submits:
    """Remembers what it has read."""

    def __init__(self) -> None:
        #: {the bytes behind id and payload: what they say}. All of them are within the contract's limits.
        self._known: dict[bytes, _Rest] = {}

    def spec(self, task: pb.Task, trace: bytes, violations: Violations, prefix: str = "") -> Spec | None:
        """Returns what a task asks for; None when something in it is wrong.

        Args:
            task: the message, which may be changed.
            trace: the trace context of its batch, as Spec.trace has it.
            violations: what is wrong goes here.
            prefix: goes before the names of its fields there, as in `task.`.
        """
        sent = task.SerializeToString(deterministic=True)
        behind = _behind_payload(sent)
        rest = sent[behind:]
        known = self._known.get(rest) if behind else None
        if known is not None:
            id = sent[2 : 2 + sent[1]].decode()
            if id.isprintable():
                lane, body, run_at_ms, expires_at_ms, retry, labels, form, delay_ms, expires_in_ms, limit_ms = known
                return Spec(
                    id,
                    lane,
                    sent if body is None else sent[:behind] + body,
                    run_at_ms,
                    expires_at_ms,
                    retry,
                    labels,
                    False,
                    trace + form,
                    delay_ms,
                    expires_in_ms,
                    limit_ms,
                )
        before = len(violations)
        check_task(task, prefix, violations)
        if len(violations) > before:
            return None
        is_traced = bool(task.traceparent)
        spec = spec_from(task, trace)
        if behind and len(rest) <= _REST_BYTES_MAX and not is_traced and spec.body[:behind] == sent[:behind]:
            self._remember(rest, spec, behind, spec.trace[len(trace) :])
        return spec

    def _remember(self, rest: bytes, spec: Spec, behind: int, form: bytes) -> None:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        body = spec.body[behind:]
        self._known[rest] = _Rest(
            spec.lane,
            None if body == rest else body,
            spec.run_at_ms,
            spec.expires_at_ms,
            spec.retry,
            spec.labels,
            form,
            spec.delay_ms,
            spec.expires_in_ms,
            spec.time_limit_ms,
        )


def _behind_payload(task: bytes) -> int:
    """Returns where the payload of a serialized task ends.

    0: it does not begin with an id of 1 to 127 bytes and a payload of 1 to 16,383, which no limit of the contract is
    below.
    """
    if len(task) < 2 or task[0] != _ID or task[1] >= _ONE_BYTE:
        return 0
    place = 2 + task[1]
    if place >= len(task) or task[place] != _PAYLOAD:
        return 0
    low = task[place + 1]
    if low < _ONE_BYTE:
        return place + 2 + low
    high = task[place + 2]
    return place + 3 + (low - _ONE_BYTE) + high * _ONE_BYTE if high < _ONE_BYTE else 0
