"""One runner as the desk knows it: what it holds, and how it is.

Each field is written by one module: the comments say which, where it is another one.
"""

from __future__ import annotations

from typing import NewType

from gowork.worker._desk.pulse import Pulse
from gowork.worker._desk.tasks import HeldTask

#: Names a runner for as long as the worker lives; one that is started again has another.
RunnerId = NewType("RunnerId", int)


class Runner:
    """One process, or the runner within this process."""

    __slots__ = (
        "alone",
        "ended_on_purpose",
        "fault",
        "id",
        "idle_since",
        "is_gone",
        "is_process",
        "is_ready",
        "is_recalling",
        "lent",
        "name",
        "only",
        "pulse",
        "reserved",
        "slots",
        "spare",
        "started_at",
        "stopped_at",
        "tasks",
        "waiting",
        "was_stopped",
        "withheld",
    )

    def __init__(
        self,
        id: RunnerId,
        name: str,
        slots: int,
        *,
        spare: int = 0,
        alone: bool = False,
        only: tuple[str, ...] | None = None,
        is_process: bool = True,
        now: float = 0.0,
    ) -> None:
        self.id = id
        self.name = name
        self.slots = slots
        #: How many more tasks it may run while as many wait for others.
        self.spare = spare
        #: It runs isolated tasks, one at a time.
        self.alone = alone
        #: The plugins that it imports, when it runs isolated tasks; None for all.
        self.only = only
        #: It can be ended, and its loop may fail to answer.
        self.is_process = is_process
        self.started_at = now
        #: It takes tasks and messages.
        self.is_ready = False
        #: Its process has ended, or is about to.
        self.is_gone = False
        #: It was told to stop, and when.
        self.was_stopped = False
        self.stopped_at = 0.0
        #: It was ended because of one of its tasks, or of the worker's end: its other tasks are not to blame.
        self.ended_on_purpose = False
        #: Why it was given up; empty while it was not.
        self.fault = ""
        self.pulse = Pulse(answers=is_process)
        #: fence -> what it holds, in the order in which it was sent. Written by `work`.
        self.tasks: dict[int, HeldTask] = {}
        #: How many of its tasks wait for others, and lend their slots to these. Written by `work`.
        self.waiting = 0
        #: A Recall is under way. Written by `watch`.
        self.is_recalling = False
        #: Slots that it was asked to leave to isolated tasks; that it has left; that such tasks use. Written by `solo`.
        self.reserved = self.withheld = self.lent = 0
        #: When it last became idle. Written by `solo`.
        self.idle_since = now

    @property
    def is_blocked(self) -> bool:
        """Whether its loop does not answer."""
        return self.pulse.is_blocked

    @property
    def capacity(self) -> int:
        """How many tasks it may hold at once without one that waits for a slot."""
        # It may have reported a task, and not yet said that this waits no more.
        return self.slots + min(self.waiting, len(self.tasks))

    @property
    def usable_slots(self) -> int:
        """The slots that ordinary tasks may use, those of tasks that wait for others included."""
        return self.capacity - self.reserved

    def get_ready(self) -> None:
        """It takes tasks from now on."""
        self.is_ready = True

    def go(self) -> None:
        """It takes nothing more."""
        self.is_ready = False
        self.is_gone = True

    def stop(self, now: float) -> None:
        """It is told to stop, and gets no more tasks."""
        self.is_ready = False
        self.was_stopped = True
        self.stopped_at = now

    def end(self, *, fault: str = "", on_purpose: bool = False) -> None:
        """It is ended.

        Args:
            fault: why it was given up, in words.
            on_purpose: nothing was wrong with it.
        """
        if self.is_process:
            self.is_ready = False
        self.fault = self.fault or fault
        self.ended_on_purpose = self.ended_on_purpose or on_purpose
