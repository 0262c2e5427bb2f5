"""Reads the tasks that clients schedule: checks each, and makes of it what the core takes.

What tasks have alike is checked and translated once; see `_wire.rests`.
"""

from __future__ import annotations

from gowork.leader._core.model import Spec
from gowork.leader._rpc.validation import Violations, check_task
from gowork.leader._wire.rests import Rests, behind_payload
from gowork.leader._wire.specs import spec_from
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


class Submits:
    """Remembers what it has read."""

    def __init__(self) -> None:
        #: All of them are within the contract's limits.
        self._rests = Rests()

    def spec(self, task: pb.Task, trace: bytes, violations: Violations, prefix: str = "") -> Spec | None:
        """Returns what a task asks for; None when something in it is wrong.

        Args:
            task: the message, which may be changed.
            trace: the trace context of its batch, as Spec.trace has it.
            violations: what is wrong goes here.
            prefix: goes before the names of its fields there, as in `task.`.
        """
        sent = task.SerializeToString(deterministic=True)
        behind = behind_payload(sent)
        known = self._rests.spec(sent, behind, trace)
        if known is not None and known.id.isprintable():
            return known
        before = len(violations)
        check_task(task, prefix, violations)
        if len(violations) > before:
            return None
        is_traced = bool(task.traceparent)
        spec = spec_from(task, trace)
        if not is_traced:
            self._rests.remember(sent, behind, spec, trace)
        return spec
