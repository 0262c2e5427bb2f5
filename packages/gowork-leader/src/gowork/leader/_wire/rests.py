"""Remembers what tasks ask for besides an id and a payload.

Tasks of one producer differ in their ids and payloads, and mostly in nothing else. So what follows these two in the
bytes of a task is translated once: reading a field of a message costs more than all that is done with it.
"""

from __future__ import annotations

from typing import NamedTuple

from gowork.leader._core.model import LaneKey, OnLost, RetryPolicy, Spec

#: How many rests are remembered, and how many bytes each may have. They take some 4 MB together.
KNOWN_MAX = 4096
REST_BYTES_MAX = 256
#: How the fields `id` (1) and `payload` (2) begin.
_ID, _PAYLOAD = 0x0A, 0x12
#: A length below this takes one byte.
_ONE_BYTE = 0x80


class _Rest(NamedTuple):
    """What a task asks for, besides its id and its payload."""

    lane: LaneKey
    #: The bytes of it in `Spec.body`; None: they are those of the task.
    body: bytes | None
    run_at_ms: int
    expires_at_ms: int
    retry: RetryPolicy | None
    labels: tuple[tuple[str, str], ...]
    #: What it puts behind the trace context in `Spec.trace`.
    form: bytes
    delay_ms: int
    expires_in_ms: int
    time_limit_ms: int
    on_lost: OnLost | None


class Rests:
    """What was translated before."""

    def __init__(self) -> None:
        #: {the bytes behind id and payload: what they say}
        self._known: dict[bytes, _Rest] = {}

    def __len__(self) -> int:
        return len(self._known)

    def spec(self, task: bytes, behind: int, trace: bytes = b"") -> Spec | None:
        """Returns what a serialized task asks for; None when that is not known.

        Args:
            task: the task.
            behind: what `behind_payload` says of it.
            trace: its trace context, as Spec.trace has it.
        """
        known = self._known.get(task[behind:]) if behind else None
        if known is None:
            return None
        try:
            id = task[2 : 2 + task[1]].decode()
        except UnicodeDecodeError:
            return None
        lane, body, run_at_ms, expires_at_ms, retry, labels, form, delay_ms, expires_in_ms, limit_ms, on_lost = known
        return Spec(
            id,
            lane,
            task if body is None else task[:behind] + body,
            run_at_ms,
            expires_at_ms,
            retry,
            labels,
            False,
            trace + form,
            delay_ms,
            expires_in_ms,
            limit_ms,
            on_lost=on_lost,
        )

    def remember(self, task: bytes, behind: int, spec: Spec, trace: bytes = b"") -> None:
        """Remembers what a task asks for, whose arguments to `spec` were these. It has no trace context of its own."""
        rest = task[behind:]
        if not behind or len(rest) > REST_BYTES_MAX or spec.body[:behind] != task[:behind]:
            return
        if spec.unique_key or spec.waits_for_others:
            # Nearly each such task has another one, or comes after others.
            return
        if spec.id.encode() != task[2 : 2 + task[1]]:
            # It has another id further behind.
            return
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        body = spec.body[behind:]
        self._known[rest] = _Rest(
            spec.lane,
            None if body == rest else body,
            spec.run_at_ms,
            spec.expires_at_ms,
            spec.retry,
            spec.labels,
            spec.trace[len(trace) :],
            spec.delay_ms,
            spec.expires_in_ms,
            spec.time_limit_ms,
            spec.on_lost,
        )


def behind_payload(task: bytes) -> int:
    """Returns where the payload of a serialized task ends.

    0: it does not begin with an id of 1 to 127 bytes and a payload of 1 to 16,383, which no limit of the contract is
    below.
    """
    if len(task) < 2 or task[0] != _ID or task[1] >= _ONE_BYTE:
        return 0
    place = 2 + task[1]
    if place + 2 >= len(task) or task[place] != _PAYLOAD:
        return 0
    low, high = task[place + 1], task[place + 2]
    if low < _ONE_BYTE:
        end = place + 2 + low
    elif high < _ONE_BYTE:
        end = place + 3 + (low - _ONE_BYTE) + high * _ONE_BYTE
    else:
        return 0
    # A stored task may be damaged.
    return end if end <= len(task) else 0
