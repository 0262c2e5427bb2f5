"""What the worker owes its leader: granted tasks that it holds, and reports that the leader has not acknowledged."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.messages import StopKind

if TYPE_CHECKING:
    from gowork.worker._supervisor.runner import Runner


class Held:
    """One granted task until its report."""

    __slots__ = ("fence", "grant", "id", "kill_at", "only", "released", "reserved_of", "runner", "sent_at", "stop_kind")

    def __init__(self, grant: session.Grant) -> None:
        self.grant = grant
        self.fence: int = grant.fence
        self.id: str = grant.id
        #: The runner that has it; None while it waits for one.
        self.runner: Runner | None = None
        #: The plugins that its handler needs, when it is to be alone; None for all.
        self.only: tuple[str, ...] | None = None
        #: When it went to its runner, on the loop's clock.
        self.sent_at = 0.0
        #: The runner that gave up a slot for it, when it is alone in a process of its own.
        self.reserved_of: Runner | None = None
        #: The leader wants no report of it.
        self.released = False
        #: Why it was asked to stop, and when its runner is ended if it has not.
        self.stop_kind: StopKind | None = None
        self.kill_at = 0.0

    @property
    def log_fields(self) -> dict[str, object]:
        """What a line of the log says to name it."""
        return {"task_id": self.id, "attempt": self.grant.attempt, "fence": self.fence}


class Unacknowledged:
    """Reports that are kept until the leader has acknowledged them, and which of them the current session has yet to
    send.
    """

    def __init__(self) -> None:
        #: fence -> (report, size in bytes)
        self._reports: dict[int, tuple[session.Report, int]] = {}
        #: Not sent in this session yet: lists of reports with their size.
        self._unsent: list[tuple[list[session.Report], int]] = []
        #: What is kept, in bytes.
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._reports)

    def __contains__(self, fence: int) -> bool:
        return fence in self._reports

    def __iter__(self) -> Iterator[session.Report]:
        return (report for report, _ in self._reports.values())

    def add(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports that came together, of so many bytes in all."""
        # The average stands for each one's size: exact in the sum, and spares measuring every report.
        each, rest = divmod(size, len(reports))
        kept = self._reports
        for report in reports:
            kept[report.fence] = (report, each + rest)
            rest = 0
        self.bytes += size
        self._unsent.append((reports, size))

    def acknowledge(self, fences: Iterable[int]) -> None:
        """Forgets what the leader has recorded."""
        pop = self._reports.pop
        freed = 0
        for fence in fences:
            entry = pop(fence, None)
            if entry is not None:
                freed += entry[1]
        self.bytes -= freed

    def resend(self) -> None:
        """A new session: everything is to be sent again."""
        self._unsent = [([report], size) for report, size in self._reports.values()]

    def take(self, bytes_max: int) -> list[session.Report]:
        """What to send next: at least one batch when there is any, and no more once there are so many bytes."""
        taken: list[session.Report] = []
        size = batches = 0
        for reports, batch_size in self._unsent:
            if taken and size + batch_size > bytes_max:
                break
            taken += reports
            size += batch_size
            batches += 1
        del self._unsent[:batches]
        return taken

    @property
    def has_unsent(self) -> bool:
        """Whether the session has something to send."""
        return bool(self._unsent)


def listed(held: Iterable[Held], running: Container[int], reports: Iterable[session.Report]) -> list[session.Held]:
    """What a Hello names.

    Args:
        held: tasks without a report. One that the leader has released is not named: it is another's by now.
        running: the fences of those that have started.
        reports: what the leader has not acknowledged.
    """
    states = {True: session.HELD_STATE_RUNNING, False: session.HELD_STATE_BUFFERED}
    return [
        *(
            session.Held(id=each.id, fence=each.fence, state=states[each.fence in running])
            for each in held
            if not each.released
        ),
        *(session.Held(id=each.id, fence=each.fence, state=session.HELD_STATE_FINISHED) for each in reports),
    ]
