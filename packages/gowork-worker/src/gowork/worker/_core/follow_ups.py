"""Follow-ups: tasks that a handler schedules. They are gathered while it runs and sent with its report.

They are scheduled in the commit that records its completion, or not at all. This module imports no protobuf.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from gowork.proto import limits
from gowork.worker._core.codec import encode_payload
from gowork.worker._core.new_tasks import FollowUp, check_options, checked, is_new_task, options_of

#: Most bytes of payload in all follow-ups of one attempt, because they travel in one message.
_PAYLOADS_BYTES_MAX = 4 << 20


class FollowUps:
    """The follow-ups of one attempt. May be added to from any thread."""

    __slots__ = ("_lock", "_payload_bytes", "_prefix", "tasks")

    def __init__(self, task_id: str, *, is_group: bool = False, continued: int = 0) -> None:
        # The ids that are just the task's and a number are those of its children, if it is a group, and those that its
        # earlier handlers have scheduled, if it was continued.
        self._prefix = f"{task_id}/then-{continued}" if continued else f"{task_id}/then" if is_group else task_id
        self._lock = threading.Lock()
        self._payload_bytes = 0
        self.tasks: list[FollowUp] = []

    def add(self, items: Iterable[object], options: Mapping[str, Any], id: str | None = None) -> list[str]:
        """Adds all of these, or none if one is at fault. Returns their ids.

        Args:
            items: payloads, or NewTasks.
            options: see TaskOptions; those of a NewTask go first.
            id: the id of each item that has none of its own; None: one that follows from this task's.

        Raises:
            ValueError, TypeError: see Context.schedule.
        """
        check_options(options)
        now_ms = int(time.time() * 1000)
        # What all payloads of the call share is checked once.
        shared = checked(options, now_ms)
        encoded: list[dict[str, Any]] = []
        size = 0
        # Nothing is locked meanwhile: the items, and what they are made of, may be anybody's code.
        for item in items:
            fields, payload, own_id = shared, item, id
            if is_new_task(item):
                fields = checked(options_of(item, options), now_ms)
                payload, own_id = item.payload, id if item.id is None else item.id  # type: ignore[attr-defined]
            text, data, form = encode_payload(payload)
            if not (text or data or fields["handler"] or fields["group"] is not None):
                raise ValueError("payload: it is empty and no handler is named; give one of the two")
            size += len(data) or len(text.encode())
            encoded.append({"id": own_id, "payload": text, "data": data, "payload_form": form, **fields})
            self._check_room(len(encoded), size)
        with self._lock:
            self._check_room(len(encoded), size)
            before = len(self.tasks)
            for number, fields in enumerate(encoded, before + 1):
                fields["id"] = self._key(number, fields["id"])
            self.tasks += [FollowUp(**fields) for fields in encoded]
            self._payload_bytes += size
        return [fields["id"] for fields in encoded]

    def _check_room(self, number: int, size: int) -> None:
        if len(self.tasks) + number > limits.FOLLOW_UPS_MAX:
            raise ValueError(f"one attempt may schedule at most {limits.FOLLOW_UPS_MAX:,} tasks")
        if self._payload_bytes + size > _PAYLOADS_BYTES_MAX:
            most = f"{_PAYLOADS_BYTES_MAX:,} bytes"
            raise ValueError(f"payload: with it, this attempt's follow-ups have over {most} of payload")

    def _key(self, number: int, id: Any) -> str:
        # The same in every attempt, so that what two attempts schedule is scheduled once.
        key: Any = f"{self._prefix}/{number}" if id is None else id
        is_text = isinstance(key, str) and key.isprintable()
        if not (is_text and 0 < len(key.encode(errors="replace")) <= limits.ID_BYTES_MAX):
            raise ValueError(f"id: {key!r} is not 1 to {limits.ID_BYTES_MAX} printable bytes; name another one")
        return str(key)
