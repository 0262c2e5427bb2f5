"""Reports that the leader has not acknowledged.

Invariant: KEPT (a report stays here until the leader has acknowledged it after its commit).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gowork.proto.worker.v1 import session_pb2 as session


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
        """Keeps reports that came together. They have `size` bytes in all."""
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

    def drop(self, fences: Iterable[int]) -> None:
        """Forgets what the leader wants no report of, also where it has not been sent yet."""
        fences = set(fences)
        self.acknowledge(fences)
        # The leader does so seldom: only then it is worth a look at all that is to be sent.
        kept = [([report for report in reports if report.fence not in fences], size) for reports, size in self._unsent]
        self._unsent = [batch for batch in kept if batch[0]]

    def resend(self) -> None:
        """A new session: everything is to be sent again."""
        self._unsent = [([report], size) for report, size in self._reports.values()]

    def take(self, bytes_max: int) -> list[session.Report]:
        """What to send next: at least one batch when there is any, and none beyond `bytes_max` bytes."""
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
