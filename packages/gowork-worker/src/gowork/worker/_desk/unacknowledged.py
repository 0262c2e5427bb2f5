"""Reports that the leader has not acknowledged.

Invariant: KEPT (a report stays here until the leader has acknowledged it after its commit).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner.columns import without


class Unacknowledged:
    """Keeps reports until the leader has acknowledged them, and knows which of them this session has not sent.

    Reports by columns stay together: what is kept for a fence is the message that has a row of it.
    """

    def __init__(self) -> None:
        #: {fence: (report, or columns with a row of it; size in bytes)}
        self._reports: dict[int, tuple[session.Report | session.Completions, int]] = {}
        #: [(reports that came together, their size in bytes), ...] that this session has not sent.
        self._unsent: list[tuple[list[session.Report] | session.Completions, int]] = []
        #: How many bytes all kept reports take.
        self.bytes = 0
        #: How many reports this session has not sent, and their bytes.
        self.unsent = 0
        self.unsent_bytes = 0

    def __len__(self) -> int:
        return len(self._reports)

    def __contains__(self, fence: int) -> bool:
        return fence in self._reports

    def names(self) -> Iterator[tuple[int, str]]:
        """Yields the fence and id of each report."""
        kept = self._reports
        for what in self._messages():
            if isinstance(what, session.Report):
                yield what.fence, what.id
            else:
                yield from ((fence, id) for fence, id in zip(what.fences, what.ids, strict=True) if fence in kept)

    def add(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports that came together, and take `size` bytes in all."""
        # Each one counts with the average size. The sum is exact, and no report has to be measured.
        each, rest = divmod(size, len(reports))
        kept = self._reports
        for report in reports:
            kept[report.fence] = (report, each + rest)
            rest = 0
        self._note(reports, len(reports), size)

    def add_completions(self, completions: session.Completions, fences: list[int]) -> None:
        """Keeps reports by columns. `fences` are theirs."""
        size = completions.ByteSize()
        each, rest = divmod(size, len(fences))
        self._reports.update(dict.fromkeys(fences, (completions, each)))
        self._reports[fences[0]] = (completions, each + rest)
        self._note(completions, len(fences), size)

    def _note(self, what: list[session.Report] | session.Completions, count: int, size: int) -> None:
        self.bytes += size
        self._unsent.append((what, size))
        self.unsent += count
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
        kept: list[tuple[list[session.Report] | session.Completions, int]] = []
        for what, size in self._unsent:
            if isinstance(what, session.Completions):
                dropped = [row for row, fence in enumerate(what.fences) if fence in fences]
                what = without(what, dropped) if dropped else what
            else:
                what = [report for report in what if report.fence not in fences]
            if _count(what):
                kept.append((what, size))
        self._unsent = kept
        self._count_unsent()

    def resend(self) -> None:
        """A new session: everything must be sent again."""
        kept = self._reports
        self._unsent = []
        for what in self._messages():
            if isinstance(what, session.Report):
                self._unsent.append(([what], kept[what.fence][1]))
                continue
            gone = [row for row, fence in enumerate(what.fences) if fence not in kept]
            left = without(what, gone) if gone else what
            size = 0
            for fence in left.fences:
                each = kept[fence][1]
                kept[fence] = (left, each)
                size += each
            self._unsent.append((left, size))
        self._count_unsent()

    def take(self, bytes_max: int) -> tuple[list[session.Report], list[session.Completions]]:
        """Returns what to send next: at most `bytes_max` bytes, or one batch that takes more."""
        reports: list[session.Report] = []
        completions: list[session.Completions] = []
        size = batches = count = 0
        for what, batch_size in self._unsent:
            if batches and size + batch_size > bytes_max:
                break
            if isinstance(what, list):
                reports += what
                count += len(what)
            else:
                completions.append(what)
                count += len(what.fences)
            size += batch_size
            batches += 1
        del self._unsent[:batches]
        self.unsent -= count
        self.unsent_bytes -= size
        return reports, completions

    @property
    def awaited(self) -> int:
        """How many reports the leader has been sent, and has not acknowledged. A few less in rare cases."""
        return len(self._reports) - self.unsent

    def _messages(self) -> list[session.Report | session.Completions]:
        """Returns each kept report, and the columns of the others once."""
        # By identity, because messages have no hash.
        return list({id(what): what for what, _ in self._reports.values()}.values())

    def _count_unsent(self) -> None:
        self.unsent = sum(_count(what) for what, _ in self._unsent)
        self.unsent_bytes = sum(size for _, size in self._unsent)


def _count(what: list[session.Report] | session.Completions) -> int:
    return len(what.fences) if isinstance(what, session.Completions) else len(what)
