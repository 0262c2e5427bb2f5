"""What the fleet can do with a runner, wherever that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages


class FleetRunner(Protocol):
    """It carries out what it is told, and decides nothing."""

    id: RunnerId
    #: For logs.
    name: str

    @property
    def pid(self) -> int | None:
        """Its process id; None in process."""

    def start_tasks(self, grants: Sequence[session.Grant]) -> None:
        """Hands tasks over."""

    def cancel_tasks(self, fences: Sequence[int]) -> None:
        """Asks tasks to stop."""

    def send(self, message: messages.Control) -> None:
        """Sends a control message."""

    def ping(self) -> None:
        """Has its loop answer."""

    def end(self, fault: str) -> None:
        """Ends its process and all children in its group at once; see EndRunner."""

    def running(self) -> list[messages.Running]:
        """What it executes right now."""

    def begun(self) -> set[int]:
        """The fences of what it has started: all that it executes, and what it executed last."""

    @property
    def ticks(self) -> int:
        """How often its loop has ticked."""
