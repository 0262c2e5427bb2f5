"""One runner as the desk knows it: which tasks it holds, and what state it is in.

Each field is written by one module. The comments name it where it is not this one.
"""

from __future__ import annotations

from typing import NewType

from gowork.worker._desk.pulse import Pulse
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import messages

#: Names a runner for as long as the worker lives. The runner that takes its place has another id.
RunnerId = NewType("RunnerId", int)


class Runner:
    """One process, or the runner within this process."""

    __slots__ = (
        "alone",
        "ended_on_purpose",
        "environment",
        "fault",
        "finished",
        "id",
        "idle_since",
        "is_gone",
        "is_process",
        "is_ready",
        "is_recalling",
        "is_retiring",
        "lent",
        "memory_bytes",
        "name",
        "only",
        "pulse",
        "raised",
        "reserved",
        "slots",
        "slots_told",
        "spare",
        "started_at",
        "stopped_at",
        "tasks",
        "told",
        "waiting",
        "was_ready",
        "was_stopped",
        "withheld",
        "worn",
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
        environment: str = "",
        is_process: bool = True,
        now: float = 0.0,
    ) -> None:
        self.id = id
        self.name = name
        self.slots = slots
        #: How many more tasks it may run while as many of its tasks wait for others.
        self.spare = spare
        #: Whether it runs isolated tasks, one at a time.
        self.alone = alone
        #: The plugins that it imports; None for all. Only a runner of isolated tasks has such a bound.
        self.only = only
        #: The environment whose Python runs it; empty for the worker's own, which ordinary runners have.
        self.environment = environment
        #: Whether it is a process, which can be ended and whose loop may fail to answer.
        self.is_process = is_process
        #: When it was started, in seconds on the desk's clock, like all times here.
        self.started_at = now
        #: Whether it takes tasks and messages.
        self.is_ready = False
        #: Whether it ever did.
        self.was_ready = False
        #: Whether its process has ended, or is about to.
        self.is_gone = False
        #: Whether it was told to stop, and when.
        self.was_stopped = False
        self.stopped_at = 0.0
        #: Whether it was ended because of one of its tasks. The others are not to blame.
        self.ended_on_purpose = False
        #: Why it was given up, in words; empty when it was not.
        self.fault = ""
        self.pulse = Pulse(answers=is_process)
        #: {fence: a task that it holds}, in the order in which they were sent. Written by `work`.
        self.tasks: dict[int, HeldTask] = {}
        #: How many of its tasks wait for others and lend their slots. Written by `work`.
        self.waiting = 0
        #: Whether it has been sent a Recall and has not answered. Written by `watch`.
        self.is_recalling = False
        #: How many tasks it has reported. Written by `work`.
        self.finished = 0
        #: How much memory its process takes, as of its last answer. Written by the desk.
        self.memory_bytes = 0
        #: Why it has asked to be replaced, in words; empty when it has not. Written by the desk.
        self.worn = ""
        #: Whether it gets no more tasks, because it is replaced. Written by `recycling`.
        self.is_retiring = False
        #: How many slots it was asked to leave to isolated tasks, how many it has left, and how many of those are used.
        #: Written by `solo`.
        self.reserved = self.withheld = self.lent = 0
        #: The slots that it was told last, in how many Slots, and which of these was the last that gave it some back.
        #: What it says that it withholds counts only when it has heard that one.
        self.slots_told = slots
        self.told = self.raised = 0
        #: When it became idle, if it runs isolated tasks. Written by `solo`.
        self.idle_since = now

    @property
    def is_blocked(self) -> bool:
        """Whether its loop does not answer."""
        return self.pulse.is_blocked

    def suits(self, task: HeldTask) -> bool:
        """Whether it has what an isolated task needs: its environment, and its plugins."""
        return self.environment == task.environment and self.only == task.only

    @property
    def capacity(self) -> int:
        """How many tasks it may hold before one must wait for a slot."""
        # It may have reported a task that has waited, and not yet said that one fewer waits.
        return self.slots + min(self.waiting, len(self.tasks))

    @property
    def usable_slots(self) -> int:
        """How many tasks it may hold before one must wait, without the slots that are left to isolated tasks."""
        return self.capacity - self.reserved

    def get_ready(self) -> None:
        """It is ready: it takes tasks from now on."""
        self.is_ready = self.was_ready = True

    def limit(self, slots: int) -> messages.Slots:
        """It may run `slots` tasks from now on. Returns what it is to be told; each call counts as told."""
        self.told += 1
        if slots > self.slots_told:
            self.raised = self.told
        self.slots_told = slots
        return messages.Slots(slots)

    def go(self) -> None:
        """Its process ends or has ended: it takes nothing more."""
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
            fault: why it was given up, in words; empty when nothing was wrong with it.
            on_purpose: it is ended because of one of its tasks.
        """
        if self.is_process:
            self.is_ready = False
        self.fault = self.fault or fault
        self.ended_on_purpose = self.ended_on_purpose or on_purpose
