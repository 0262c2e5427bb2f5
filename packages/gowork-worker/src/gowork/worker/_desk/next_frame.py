"""What the next frame to the leader says: reports, progress, answers to pings, credit, and the worker's condition.

A frame costs the leader a commit and both sides a round, whatever it carries. So a frame is not sent for little while
the leader has several reports of this worker to acknowledge (Nagle's rule), nor for little credit (Clark's).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from gowork.proto.completions import reports_of
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.checkpoints import Checkpoints
from gowork.worker._desk.credit import Credit
from gowork.worker._desk.unacknowledged import Unacknowledged
from gowork.worker._runner import endings
from gowork.worker._runner.columns import join

#: The most seconds for which reports gather.
GATHER_SECONDS = 0.01
#: While the leader has fewer reports than these to acknowledge, the next ones do not wait.
FEW = 4
#: Which share of the window is no little, in reports and in credit. The rest of it keeps runners busy meanwhile.
_REPORTS_SHARE = 0.5
_CREDIT_SHARE = 0.25


#: Fields of follow-ups that leaders before 0.2.0 silently drop: those that come with Welcome.heeds_on_lost, and with
#: Welcome.heeds_unique_keys.
_ON_LOST = ("on_lost", "plugin_version")
_UNIQUE_KEYS = ("unique_key", "after", "group")
#: What a report has that comes with Welcome.heeds_continuations.
_CONTINUATION = "continuation"


def _for_older_leaders(report: session.Report, unknown: Iterable[str]) -> session.Report:
    """Returns the report; or one of a failure, if it asks for what is `unknown` to its leader."""
    given = {field.name for task in report.follow_ups for field, _ in task.ListFields()} if report.follow_ups else set()
    dropped = [name for name in unknown if name in given]
    if report.outcome == tasks.ATTEMPT_OUTCOME_WAITING and _CONTINUATION in unknown:
        reason = "the handler waits for other tasks (WaitFor), which this leader is too old to know; upgrade it first"
    elif dropped:
        reason = f"a follow-up asks for {' and '.join(dropped)}, which this leader is too old to know; upgrade it first"
    else:
        return report
    failed = endings.rejected(report.fence, report.id, reason)
    failed.execution_us = report.execution_us
    failed.traceparent = report.traceparent
    return failed


class NextFrame:
    """Gathers what one worker says, over all its sessions."""

    def __init__(self) -> None:
        self.unacknowledged = Unacknowledged()
        self.credit = Credit()
        #: {fence: the latest progress, which the leader has not been told}. Written by `work`.
        self.progress: dict[int, session.ProgressReport] = {}
        self.checkpoints = Checkpoints()
        #: When reports that gather are sent at the latest; None while none gather.
        self.due: float | None = None
        self._leaving = self._reads_completions = False
        #: Fields of follow-ups that the leader would drop.
        self._unknown: tuple[str, ...] = ()
        self._pongs: list[int] = []
        #: What the session was told last of the worker: whether it is blocked, draining, and leaving.
        self._condition = (False, False, False)

    @property
    def has_left(self) -> bool:
        """Whether a frame with the goodbye was taken."""
        return self._condition[2]

    def start_session(
        self,
        *,
        reads_completions: bool = False,
        heeds_on_lost: bool = True,
        heeds_unique_keys: bool = True,
        keeps_checkpoints: bool = True,
        heeds_continuations: bool = True,
    ) -> None:
        """A new session: everything is said again.

        Args:
            reads_completions: whether its leader takes reports by columns.
            heeds_on_lost: whether its leader reads what follow-ups say of losses, and of versions of plugins.
            heeds_unique_keys: whether its leader reads their unique keys.
            keeps_checkpoints: whether its leader keeps checkpoints.
            heeds_continuations: whether its leader has tasks wait for others after their handlers.
        """
        self.checkpoints.start_session(is_heeded=keeps_checkpoints)
        self._reads_completions = reads_completions
        self._unknown = (() if heeds_on_lost else _ON_LOST) + (() if heeds_unique_keys else _UNIQUE_KEYS)
        if not heeds_continuations:
            self._unknown += (_CONTINUATION,)
        self.credit.start_session()
        self.unacknowledged.resend()
        self._condition = (False, False, False)
        self._pongs.clear()
        self.due = None

    def leave(self) -> None:
        """Says goodbye when all reports are sent."""
        self._leaving = True

    def keep(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports, which take `size` bytes together."""
        if self.checkpoints.latest:
            size += self.checkpoints.attach(reports)
        self.unacknowledged.add(reports, size)

    def keep_completions(self, completions: session.Completions, fences: list[int]) -> None:
        """Keeps reports by columns. `fences` are theirs."""
        if self.checkpoints.latest:
            self.checkpoints.drop(fences)
        self.unacknowledged.add_completions(completions, fences)

    def acknowledge(self, fences: Iterable[int]) -> None:
        """Forgets reports that the leader has recorded or refused."""
        self.unacknowledged.acknowledge(fences)

    def drop(self, fences: Iterable[int]) -> None:
        """Forgets what there is to say of these tasks, because the leader has released them."""
        self.unacknowledged.drop(fences)
        self.checkpoints.drop(fences)
        for fence in fences:
            self.progress.pop(fence, None)

    def answer(self, pings: Iterable[int]) -> None:
        """Takes pings of the leader, to be answered."""
        self._pongs += pings

    def come_due(self, due: float) -> None:
        """The time at which what gathered is sent has come, if it is still the time that `due` was."""
        if self.due == due:
            self.due = -math.inf

    def take(
        self, bytes_max: int, now: float, *, held: int, slots: int, blocked: bool, draining: bool
    ) -> session.ConnectRequest | None:
        """Returns the next frame; None when there is nothing to say, or not until `due`.

        Args:
            bytes_max: how many bytes its reports may take, unless the first batch of them takes more.
            now: the time in seconds, always on the same clock.
            held: how many tasks the worker holds, except in blocked runners.
            slots: how many tasks may run at once; 0 when the worker wants no more.
            blocked: whether a runner's loop does not answer.
            draining: whether the worker takes nothing new.
        """
        # Where nothing is held, no further report comes.
        calm = held and not self._pongs and not self._leaving and (blocked, draining) == self._condition[:2]
        if calm and self.unacknowledged.unsent and self._gathers(bytes_max, slots, now):
            return None
        self.due = None
        reports, completions = self.unacknowledged.take(bytes_max)
        if completions and not self._reads_completions:
            reports = [*reports, *(report for each in completions for report in reports_of(each))]
            completions = []
        if self._unknown:
            reports = [
                _for_older_leaders(report, self._unknown)
                if report.follow_ups or report.outcome == tasks.ATTEMPT_OUTCOME_WAITING
                else report
                for report in reports
            ]
        condition = (blocked, draining, self._leaving and not self.unacknowledged.unsent)
        changed = condition != self._condition
        words: Collection[session.ProgressReport] = self.progress.values()
        if self.checkpoints.unsent:
            words = [*words, *self.checkpoints.take()]
        speaks = bool(reports or completions or changed or words or self._pongs)
        # Credit that goes with something else costs no frame.
        credit = self.credit.next(held, slots, 0.0 if speaks or held <= slots else _CREDIT_SHARE)
        if not (speaks or credit):
            return None
        self._condition = condition
        request = session.ConnectRequest(
            reports=reports,
            credit=[credit] if credit else None,
            progress=words,
            pongs=self._pongs,
        )
        if changed:
            request.conditions.add(blocked=condition[0], draining=condition[1], leaving=condition[2])
        if completions:
            join(completions, request.completions)
        self.progress.clear()
        self._pongs.clear()
        return request

    def _gathers(self, bytes_max: int, slots: int, now: float) -> bool:
        """Whether the reports that there are wait for more, or for the acknowledgement of those before them."""
        kept = self.unacknowledged
        if kept.awaited < FEW or kept.unsent_bytes >= bytes_max:
            return False
        if kept.unsent >= (slots + self.credit.buffer) * _REPORTS_SHARE:
            return False
        if self.due is None:
            self.due = now + GATHER_SECONDS
        return now < self.due
