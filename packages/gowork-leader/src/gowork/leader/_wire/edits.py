"""Changes what a task asks for: returns the Spec of the same task with other fields."""

from __future__ import annotations

from msgspec import Struct

from gowork.leader._core.model import Spec
from gowork.leader._wire.specs import DEFAULT_QUEUE, form_of, respecified
from gowork.proto.limits import TIME_MS_MAX
from gowork.proto.scheduler.v1 import scheduler_pb2


class Edits(Struct, frozen=True):
    """What is to be changed. None leaves a field as it is."""

    queue: str | None = None
    priority: int | None = None
    #: When it may start, or how long after the change. 0: at once.
    run_at_ms: int | None = None
    delay_ms: int | None = None
    #: When it expires, or how long after the change. A time of 0: never.
    expires_at_ms: int | None = None
    expires_in_ms: int | None = None
    handler: str | None = None
    #: One of the two may be set: then it is what the task works on, and `payload_form` is what it was.
    payload: str | None = None
    data: bytes | None = None
    payload_form: int = 0
    #: The tasks after which it runs, and a scheduler.v1.AfterRule.
    after: tuple[str, ...] | None = None
    after_rule: int = 0

    @property
    def moves_start(self) -> bool:
        """Whether the time to start is among them."""
        return self.run_at_ms is not None or self.delay_ms is not None

    def apply(self, spec: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
        """Returns what a task asks for when it is changed, and the names of the fields that differ.

        Args:
            spec: what it asks for until now.
            created_ms: when it was submitted.
            now_ms: when it is changed; lengths of time count from then.
        """
        task = scheduler_pb2.Task.FromString(spec.body)
        fields = []
        if self.queue is not None and (self.queue or DEFAULT_QUEUE) != spec.lane.queue:
            task.queue = self.queue
            fields.append("queue")
        if self.priority is not None and self.priority != spec.lane.priority:
            task.priority = self.priority  # type: ignore[assignment] # The number of the enum's value.
            fields.append("priority")
        run_at_ms = _time(self.run_at_ms, self.delay_ms, now_ms)
        if run_at_ms is not None and run_at_ms != spec.run_at_ms:
            task.ClearField("delay_ms")
            task.run_at_ms = run_at_ms
            fields.append("run_at_ms")
        expires_at_ms = _time(self.expires_at_ms, self.expires_in_ms, now_ms)
        if expires_at_ms is not None and expires_at_ms != spec.expires_at_ms:
            task.ClearField("expires_in_ms")
            task.expires_at_ms = expires_at_ms
            fields.append("expires_at_ms")
        if self.handler is not None and self.handler != task.handler:
            task.handler = self.handler
            fields.append("handler")
        form = None
        if self.payload is not None or self.data is not None:
            form = self.payload_form
            before = (task.payload, task.data, form_of(spec, task))
            task.payload, task.data = self.payload or "", self.data or b""
            if before != (task.payload, task.data, form):
                fields.append("payload")
        if self.after is not None and (self.after, self.after_rule) != (tuple(task.after), task.after_rule):
            task.after[:] = self.after
            task.after_rule = self.after_rule  # type: ignore[assignment] # As above.
            fields.append("after")
        return (respecified(task, spec, created_ms, form) if fields else spec), tuple(fields)


def _time(at_ms: int | None, in_ms: int | None, now_ms: int) -> int | None:
    """Returns a time that is given as such, or as a length of time from now; 0 stays 0. None: neither is given."""
    if in_ms is None:
        return at_ms
    return min(now_ms + in_ms, TIME_MS_MAX) if in_ms else 0
