"""Decides on checkpoints: what an attempt hands on to the next one. They are in the task's Standing until it ends.

All that running tasks have told is bounded together, because memory holds it. Beyond the bound the earlier checkpoint
of a task stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core.model import RUNNING, Now, Task

if TYPE_CHECKING:
    from gowork.leader._core import commands as cmd
    from gowork.leader._core.decision import Decision
    from gowork.leader._core.state import State, Worker

#: How many bytes the checkpoints of all running tasks may take, and how many there may be.
CHECKPOINTS_BYTES_MAX = 64 << 20
CHECKPOINTS_MAX = 100_000
#: How long it is until it is looked again which tasks have ended, in seconds, while there is no room.
LOOK_SECONDS = 1.0


class Checkpoints:
    """How much the checkpoints of running tasks take. Only `apply` changes it.

    Of tasks that have ended since it may know, too, until there is no room.
    """

    __slots__ = ("_sizes", "_tasks", "bytes", "looked_mono")

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = tasks
        #: {fence: (id, bytes)}
        self._sizes: dict[int, tuple[str, int]] = {}
        self.bytes = 0
        #: When it looked last which tasks run no more.
        self.looked_mono = -math.inf

    def growth(self, fence: int, size: int) -> int:
        """By how many bytes all take more with one of this size, in place of the one that this grant has."""
        return size - self._sizes.get(fence, ("", 0))[1]

    def has_room(self, fence: int, growth: int) -> bool:
        """Whether one of this grant may be kept, so that all take as many bytes more."""
        return self.bytes + growth <= CHECKPOINTS_BYTES_MAX and (
            fence in self._sizes or len(self._sizes) < CHECKPOINTS_MAX
        )

    def note(self, id: str, fence: int, size: int) -> None:
        """Notes a checkpoint."""
        self.bytes += self.growth(fence, size)
        self._sizes[fence] = (id, size)

    def make_room(self, mono: float) -> None:
        """Forgets those of tasks that run no more under the same grant."""
        self.looked_mono = mono
        self._sizes = {fence: entry for fence, entry in self._sizes.items() if self._runs(entry[0], fence)}
        self.bytes = sum(size for _, size in self._sizes.values())

    def _runs(self, id: str, fence: int) -> bool:
        task = self._tasks.get(id)
        return task is not None and task.standing.status is RUNNING and task.standing.fence == fence


def take(state: State, worker: Worker, frame: cmd.ReceiveFrame, now: Now, decision: Decision) -> None:
    """Keeps the checkpoints of a frame that are of tasks which its worker holds."""
    ended = {report.fence for report in frame.reports}
    for columns in frame.completions:
        ended.update(columns.fences)
    # Of several of one attempt the last one counts.
    latest = {checkpoint.fence: checkpoint for checkpoint in frame.checkpoints if checkpoint.fence not in ended}
    growth = 0
    for fence, checkpoint in latest.items():
        if worker.held.get(fence) != checkpoint.id:
            continue
        growth += state.checkpoints.growth(fence, len(checkpoint.state))
        if not state.checkpoints.has_room(fence, growth):
            # What has ended meanwhile makes room for the next one.
            if now.mono - state.checkpoints.looked_mono >= LOOK_SECONDS:
                decision.changes.append(ch.CheckpointNoted(checkpoint.id, fence, 0, now.mono))
            return
        standing = replace(state.tasks[checkpoint.id].standing, checkpoint=checkpoint.state)
        decision.changes.append(ch.TaskMoved(checkpoint.id, standing))
        decision.changes.append(ch.CheckpointNoted(checkpoint.id, fence, len(checkpoint.state), now.mono))
