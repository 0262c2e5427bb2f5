"""What the fleet can do with a runner: in a process (`process`), or within this one (`local`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages


class FleetRunner(Protocol):
    """Carries out what it is told, and decides nothing."""

    id: RunnerId
    #: For logs.
    name: str

    @property
    def pid(self) -> int | None:
        """Its process id; None for a runner within this process, and before it is started."""

    def start_tasks(self, grants: Sequence[session.Grant]) -> None:
        """Hands tasks over."""

    def cancel_tasks(self, fences: Sequence[int]) -> None:
        """Asks tasks to stop."""

    def send(self, message: messages.Control) -> None:
        """Sends a control message."""

    def ping(self) -> None:
        """Asks its loop for an answer."""

    def end(self, fault: str) -> None:
        """Ends its process, and all processes of its group, at once; see EndRunner."""

    def running(self) -> list[messages.Running]:
        """Returns the tasks that it executes right now."""

    def begun(self) -> set[int]:
        """Returns the fences of tasks that it has started: those that run, and the last one that ended in each slot."""

    @property
    def ticks(self) -> int:
        """How often its loop has ticked."""
