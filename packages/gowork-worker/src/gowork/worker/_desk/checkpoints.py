"""The latest checkpoint of each task that the worker holds, until its report, and which of them to tell this session.

They are kept after they were sent, because a leader may end before it has recorded them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session

#: How many bytes the kept ones may take together. Beyond that the earlier one of a task stays.
CHECKPOINTS_BYTES_MAX = 64 << 20
#: After how many bytes a frame takes no more of them.
_FRAME_BYTES_MAX = 1 << 20


class Checkpoints:
    """Those of one worker, over all its sessions."""

    def __init__(self) -> None:
        #: {fence: the message that tells it}. Hot paths look themselves whether there are any, here and in `unsent`.
        self.latest: dict[int, session.ProgressReport] = {}
        #: The fences of those that the session is to be told.
        self.unsent: dict[int, None] = {}
        self._bytes = 0
        #: Whether the session's leader keeps them.
        self.is_heeded = True

    def start_session(self, *, is_heeded: bool) -> None:
        """A new session: everything is told again, if its leader keeps it."""
        self.is_heeded = is_heeded
        self.unsent = dict.fromkeys(self.latest) if is_heeded else {}

    def keep(self, word: session.ProgressReport) -> bool:
        """Keeps one. Returns False when there is no room for it."""
        fence, size = word.fence, len(word.checkpoint)
        before = self.latest.get(fence)
        size -= 0 if before is None else len(before.checkpoint)
        if self._bytes + size > CHECKPOINTS_BYTES_MAX:
            return False
        self._bytes += size
        self.latest[fence] = word
        if self.is_heeded:
            self.unsent[fence] = None
        return True

    def attach(self, reports: Iterable[session.Report]) -> int:
        """Ends the tasks of these reports, and puts their checkpoints into those that another attempt may follow.

        Returns by how many bytes the reports have grown.
        """
        grown = 0
        for report in reports:
            word = self.latest.get(report.fence)
            if word is not None:
                self.drop((report.fence,))
                if not report.checkpoint and report.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
                    report.checkpoint = word.checkpoint
                    grown += len(word.checkpoint)
        return grown

    def drop(self, fences: Iterable[int]) -> None:
        """Forgets those of tasks that have ended."""
        for fence in fences:
            word = self.latest.pop(fence, None)
            if word is not None:
                self._bytes -= len(word.checkpoint)
                self.unsent.pop(fence, None)

    def take(self) -> Iterator[session.ProgressReport]:
        """Yields what the next frame tells."""
        size = 0
        while self.unsent and size < _FRAME_BYTES_MAX:
            fence, _ = self.unsent.popitem()
            size += len(self.latest[fence].checkpoint)
            yield self.latest[fence]
