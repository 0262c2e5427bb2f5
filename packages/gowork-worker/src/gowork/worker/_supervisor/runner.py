"""One runner as the supervisor sees it: what it holds, what is said to it, and what it says back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import messages
from gowork.worker._runner.table import Running
from gowork.worker._supervisor.held import Held


class Owner(Protocol):
    """Whoever holds runners: told what they say, on the loop."""

    def runner_ready(self, runner: Runner, ready: messages.Ready) -> None:
        """It has loaded its plugins and takes tasks."""

    def runner_reported(self, runner: Runner, reports: list[session.Report], size: int) -> None:
        """Attempts have ended."""

    def runner_progressed(self, progress: Iterable[session.ProgressReport]) -> None:
        """Attempts have come further."""

    def runner_said(self, runner: Runner, message: messages.FromRunner) -> None:
        """Any other message."""

    def runner_answered(self, runner: Runner, lag: float) -> None:
        """It answered a ping after `lag` seconds."""


class Runner:
    """The common part of runners in processes and in process."""

    def __init__(self, name: str, slots: int, owner: Owner, *, spare: int = 0, alone: bool = False) -> None:
        self.name = name
        self.slots = slots
        #: How many more tasks it may run while as many wait for others.
        self.spare = spare
        #: How many of its tasks wait for others, and lend their slots to these.
        self.waiting = 0
        self.owner = owner
        #: It runs isolated tasks, one at a time.
        self.alone = alone
        #: The plugins that it imports, when it runs isolated tasks; None for all.
        self.only: tuple[str, ...] | None = None
        #: fence -> what it holds, in the order in which it was sent
        self.tasks: dict[int, Held] = {}
        self.is_ready = False
        #: Its loop does not answer.
        self.is_blocked = False
        #: The supervisor has ended it: whatever else ran in it is not to blame.
        self.ended_on_purpose = False
        #: It was told to stop, and when, on the loop's clock.
        self.was_stopped = False
        self.stopped_at = 0.0
        #: Why the supervisor gave it up; empty while it has not.
        self.fault = ""
        #: A Recall is under way.
        self.is_recalling = False
        #: Slots that it was asked to leave to isolated tasks; that it has left; that such tasks use.
        self.reserved = self.withheld = self.lent = 0
        #: When it last became idle, on the loop's clock.
        self.idle_since = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id; None in process."""
        return None

    @property
    def usable_slots(self) -> int:
        """The slots that ordinary tasks may use, those of tasks that wait for others included."""
        return self.capacity - self.reserved

    @property
    def capacity(self) -> int:
        """How many tasks it may hold at once without one that waits for a slot."""
        # It may have reported a task, and not yet said that this waits no more.
        return self.slots + min(self.waiting, len(self.tasks))

    def start_tasks(self, held: list[Held], now: float) -> None:
        """Hands tasks over."""
        for task in held:
            task.runner = self
            task.sent_at = now
            self.tasks[task.fence] = task
        self.send_grants([task.grant for task in held])

    def send_grants(self, grants: list[session.Grant]) -> None:
        """Sends grants."""
        raise NotImplementedError

    def send_cancel(self, fences: list[int]) -> None:
        """Asks tasks to stop."""
        raise NotImplementedError

    def send(self, message: messages.ToRunner) -> None:
        """Sends a control message."""
        raise NotImplementedError

    def check_pulse(self, now: float) -> None:
        """Pings it, and notes whether it answers."""

    def ailment(self, now: float) -> str:
        """Why it can't be talked to any more and is to be ended, in words; empty while it can."""
        return ""

    def running(self) -> list[Running]:
        """What it executes right now."""
        raise NotImplementedError

    def begun(self) -> set[int]:
        """The fences of what it has started: all that it executes, and what it executed last."""
        raise NotImplementedError

    def kill(self) -> bool:
        """Ends its process and all children in its group at once; False when it has no process of its own."""
        return False
