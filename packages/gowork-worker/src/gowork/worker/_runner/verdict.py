"""How an attempt ends, as its hooks are told before the report exists, and from when on that stands.

Invariant: what the last hook was told is the outcome that is reported.
"""

from __future__ import annotations

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.codec import PayloadError
from gowork.worker._runner import exceptions, outcomes
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.job import Job, Stop


class Verdict:
    """The ending of one attempt, around which there are hooks."""

    def __init__(self, job: Job) -> None:
        self._job = job
        #: Whether the handler, with its own hooks, has ended.
        self._stands = False
        #: How it ends if nothing is raised: it completes, or waits.
        self.returned: tasks.AttemptOutcome.ValueType = tasks.ATTEMPT_OUTCOME_COMPLETED
        #: What the attempt was stopped by; counts once it stands.
        self._stop: Stop | None = None

    def tell(self, error: BaseException | None) -> None:
        """See Ending.tell."""
        natural = self._natural(error)
        stop = self._stop if self._stands else self._job.stop
        settled = natural if stop is None else self._job.settle(stop, natural)
        assert self._job.context is not None
        self._job.context._outcome = outcomes.STATUS[settled.outcome]  # noqa: SLF001 - handlers are not to set it

    def stand(self, error: BaseException | None) -> None:
        """See Ending.stand."""
        if not self._stands:
            stop = self._job.stop
            if stop is not None:
                natural = self._natural(error)
                # One that it has not seen does not count, also when a hook looks at the token from now on.
                self._stop = None if self._job.settle(stop, natural) is natural else stop
            self._stands = True
        self.tell(error)

    def settle(self, report: AttemptReport) -> AttemptReport:
        """Returns the report of the attempt, given that of its handler."""
        stop = self._stop if self._stands else self._job.stop
        return report if stop is None else self._job.settle(stop, report)

    def _natural(self, error: BaseException | None) -> session.Report:
        outcome = self.returned if error is None else outcomes.outcome_of(error)
        if error is not None and self._job.grant.in_other_forms and exceptions.is_a(error, PayloadError):
            outcome = tasks.ATTEMPT_OUTCOME_INTERRUPTED
        return session.Report(fence=self._job.fence, id=self._job.id, outcome=outcome)
