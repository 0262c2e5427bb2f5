"""Follow-ups: tasks that a handler schedules. They are gathered while it runs and sent with its report.

They are scheduled in the commit that records its completion, or not at all. This module imports no protobuf.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gowork.proto import limits
from gowork.worker._core.bounds import duration_ms, whole
from gowork.worker._core.codec import encode_payload
from gowork.worker._core.steering import Delay

PriorityName = Literal["low", "medium", "high"]
#: Most bytes of payload in all follow-ups of one attempt, because they travel in one message.
_PAYLOADS_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class FollowUp:
    """One task to be scheduled; see scheduler.v1.Task."""

    id: str
    handler: str
    payload: str
    data: bytes
    #: scheduler.v1.PayloadForm.
    payload_form: int
    queue: str
    priority: PriorityName | None
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    #: In ms since the epoch, by this machine's clock, for leaders that do not know delay_ms; 0 without a delay.
    run_at_ms: int
    delay_ms: int
    time_limit_ms: int
    max_attempts: int
    plugin_version: str = ""
    unique_key: str = ""
    unique_for_ms: int = 0


class FollowUps:
    """The follow-ups of one attempt. May be added to from any thread."""

    __slots__ = ("_lock", "_payload_bytes", "_task_id", "tasks")

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._lock = threading.Lock()
        self._payload_bytes = 0
        self.tasks: list[FollowUp] = []

    def add(
        self,
        payload: object,
        *,
        handler: str | Callable[..., Any],
        id: str | None,
        queue: str,
        priority: PriorityName | None,
        labels: Mapping[str, str] | None,
        selector: Mapping[str, str] | None,
        delay: Delay,
        time_limit: Delay,
        max_attempts: int,
        plugin_version: str,
        unique: str = "",
        unique_for: Delay = 0.0,
    ) -> str:
        """See Context.schedule."""
        name = handler if isinstance(handler, str) else handler.__gowork_handler__.name  # type: ignore[attr-defined]
        text, data, form = encode_payload(payload)
        if not (text or data or name):
            raise ValueError("payload: it is empty and no handler is named; give one of the two")
        if priority not in (None, "low", "medium", "high"):
            raise ValueError(f"priority: {priority!r} is not 'low', 'medium' or 'high'")
        _check_name("handler", name)
        _check_name("queue", queue)
        _check_labels("labels", labels)
        _check_labels("selector", selector)
        _check_range(plugin_version)
        delay_ms = duration_ms("delay", delay, limits.DURATION_MS_MAX)
        time_limit_ms = duration_ms("time_limit", time_limit, limits.DURATION_MS_MAX)
        unique_for_ms = duration_ms("unique_for", unique_for, limits.DURATION_MS_MAX)
        _check_key(unique, unique_for_ms)
        attempts = whole("max_attempts", max_attempts, 0, limits.ATTEMPTS_MAX)
        with self._lock:
            if len(self.tasks) >= limits.FOLLOW_UPS_MAX:
                raise ValueError(f"one attempt may schedule at most {limits.FOLLOW_UPS_MAX:,} tasks")
            payload_bytes = self._payload_bytes + (len(data) or len(text.encode()))
            if payload_bytes > _PAYLOADS_BYTES_MAX:
                raise ValueError(
                    f"payload: with it, this attempt's follow-ups have over {_PAYLOADS_BYTES_MAX:,} bytes of payload"
                )
            # The same in every attempt, so that what two attempts schedule is scheduled once.
            key = f"{self._task_id}/{len(self.tasks) + 1}" if id is None else id
            if not 0 < len(key.encode()) <= limits.ID_BYTES_MAX or not key.isprintable():
                raise ValueError(f"id: {key!r} is not 1 to {limits.ID_BYTES_MAX} printable bytes; name another one")
            self.tasks.append(
                FollowUp(
                    key,
                    name,
                    text,
                    data,
                    form,
                    queue,
                    priority,
                    dict(labels or {}),
                    dict(selector or {}),
                    int(time.time() * 1000) + delay_ms if delay_ms else 0,
                    delay_ms,
                    time_limit_ms,
                    attempts,
                    plugin_version,
                    unique,
                    unique_for_ms,
                )
            )
            self._payload_bytes = payload_bytes
        return key


def _check_name(field: str, name: str) -> None:
    if name and (not name.isprintable() or len(name.encode(errors="replace")) > limits.NAME_BYTES_MAX):
        raise ValueError(f"{field}: {name!r:.200} is not at most {limits.NAME_BYTES_MAX} printable bytes")


def _check_key(unique: str, unique_for_ms: int) -> None:
    if not unique:
        if unique_for_ms:
            raise ValueError("unique_for: it is set without unique; give the key that stays taken, too")
        return
    if not _is_text(unique, 1, limits.UNIQUE_KEY_BYTES_MAX) or not unique.isprintable():
        raise ValueError(
            f"unique: {unique!r:.200} is not text of at most {limits.UNIQUE_KEY_BYTES_MAX} printable bytes"
        )


def _check_range(wanted: str) -> None:
    if not wanted:
        return
    # packaging is imported by those who use it.
    from gowork.base.version_ranges import fault_of

    if not isinstance(wanted, str):
        raise ValueError(f"plugin_version: {wanted!r:.200} is not text")
    if fault := fault_of(wanted):
        raise ValueError(f"plugin_version: {fault}")


def _check_labels(field: str, labels: Mapping[str, str] | None) -> None:
    if not labels:
        return
    if len(labels) > limits.LABELS_MAX:
        raise ValueError(f"{field}: at most {limits.LABELS_MAX} are taken, not {len(labels)}")
    for key, value in labels.items():
        if not _is_text(key, 1, limits.LABEL_KEY_BYTES_MAX):
            raise ValueError(f"{field}: the key {key!r:.200} is not text of 1 to {limits.LABEL_KEY_BYTES_MAX} bytes")
        if not _is_text(value, 0, limits.LABEL_VALUE_BYTES_MAX):
            limit = limits.LABEL_VALUE_BYTES_MAX
            raise ValueError(f"{field}: the value of {key!r} is not text of at most {limit} bytes")


def _is_text(value: object, low: int, high: int) -> bool:
    return isinstance(value, str) and low <= len(value.encode(errors="replace")) <= high
