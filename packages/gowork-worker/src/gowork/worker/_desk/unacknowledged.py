"""Reports that the leader has not acknowledged.

Invariant: KEPT (a report stays here until the leader has acknowledged it after its commit).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gowork.proto.worker.v1 import session_pb2 as session


class Unacknowledged:
    """Keeps reports until the leader has acknowledged them, and knows which of them this session has not sent."""

    def __init__(self) -> None:
        #: {fence: (report, size in bytes)}
        self._reports: dict[int, tuple[session.Report, int]] = {}
        #: [(reports that came together, their size in bytes), ...] that this session has not sent.
        self._unsent: list[tuple[list[session.Report], int]] = []
        #: How many bytes all kept reports take.
        self.bytes = 0
        #: How many reports this session has not sent, and their bytes.
        self.unsent = 0
        self.unsent_bytes = 0

    def __len__(self) -> int:
        return len(self._reports)

    def __contains__(self, fence: int) -> bool:
        return fence in self._reports

    def __iter__(self) -> Iterator[session.Report]:
        return (report for report, _ in self._reports.values())

    def add(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports that came together, and take `size` bytes in all."""
        # Each one counts with the average size. The sum is exact, and no report has to be measured.
        each, rest = divmod(size, len(reports))
        kept = self._reports
        for report in reports:
            kept[report.fence] = (report, each + rest)
            rest = 0
        self.bytes += size
        self._unsent.append((reports, size))
        self.unsent += len(reports)
        self.unsent_bytes += size

    def acknowledge(self, fences: Iterable[int]) -> None:
        """Forgets reports that the leader has acknowledged."""
        pop = self._reports.pop
        freed = 0
        for fence in fences:
            entry = pop(fence, None)
            if entry is not None:
                freed += entry[1]
        self.bytes -= freed

    def drop(self, fences: Iterable[int]) -> None:
        """Forgets reports of tasks that the leader has released. Those that were not sent will not be."""
        fences = set(fences)
        self.acknowledge(fences)
        # Releases are rare, so all reports that were not sent can be looked at.
        kept = [([report for report in reports if report.fence not in fences], size) for reports, size in self._unsent]
        self._unsent = [batch for batch in kept if batch[0]]
        self._count()

    def resend(self) -> None:
        """A new session: everything must be sent again."""
        self._unsent = [([report], size) for report, size in self._reports.values()]
        self._count()

    def take(self, bytes_max: int) -> list[session.Report]:
        """Returns what to send next: at most `bytes_max` bytes, or one batch that takes more."""
        taken: list[session.Report] = []
        size = batches = 0
        for reports, batch_size in self._unsent:
            if taken and size + batch_size > bytes_max:
                break
            taken += reports
            size += batch_size
            batches += 1
        del self._unsent[:batches]
        self.unsent -= len(taken)
        self.unsent_bytes -= size
        return taken

    @property
    def awaited(self) -> int:
        """How many reports the leader has been sent, and has not acknowledged. A few less in rare cases."""
        return len(self._reports) - self.unsent

    def _count(self) -> None:
        self.unsent = sum(len(reports) for reports, _ in self._unsent)
        self.unsent_bytes = sum(size for _, size in self._unsent)
