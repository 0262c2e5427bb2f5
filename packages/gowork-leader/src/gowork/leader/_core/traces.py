"""Decides which spans the leader makes: one for each report, and one for each attempt that has no other span.

A worker makes the spans of its attempts, and a span is lost when its process ends early. For such an attempt the leader
makes the span. Its ids follow from the submit's trace context and the fence, so the leader can store the context, which
the next attempt links to, without waiting for the export of the span.
"""

from __future__ import annotations

from hashlib import sha256

from msgspec.structs import replace

from gowork.base.trace_context import is_sampled
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.model import Attempt, Now, Outcome, Spec, Task

#: Outcomes for which the leader makes a span when the worker made none. The others need none: a COMPLETED attempt
#: without a span is that of a worker that does not trace, and another attempt follows INTERRUPTED and SNOOZED ones.
_TOLD = frozenset({Outcome.LOST, Outcome.TIMED_OUT, Outcome.FAILED, Outcome.CANCELLED})


def previous_of(attempts: tuple[Attempt, ...]) -> str:
    """Returns the traceparent of the last attempt that was traced; empty when none was."""
    return next((attempt.trace for attempt in reversed(attempts) if attempt.trace), "")


def context_of(spec: Spec, fence: int) -> str:
    """Returns the traceparent of the span that the leader makes of an attempt; empty if the submit was not sampled."""
    submit = spec.traceparent
    if not is_sampled(submit):
        return ""
    # The ids are random enough, because the submit's are and no two attempts have the same fence.
    digest = sha256(f"{submit}/{fence}".encode()).digest()
    return f"00-{digest[:16].hex()}-{digest[16:24].hex()}-01"


def settled(task: Task, report: cmd.Report, received_ns: int, decision: Decision) -> cmd.Report:
    """Makes the span of a report that is accepted. Returns the report with the traceparent of its attempt's span."""
    spec, standing = task.spec, task.standing
    if report.trace:
        decision.effects.append(
            ef.TraceSettling(
                report.trace,
                False,
                report.id,
                report.fence,
                report.outcome,
                standing.worker,
                received_ns,
                spec,
                standing.grants,
            )
        )
        return report
    reason = report.reason or (report.failure.message[:200] if report.failure is not None else "")
    trace = _alone(task, report.outcome, reason, received_ns, decision)
    return replace(report, trace=trace) if trace else report


def refused(task: Task | None, report: cmd.Report, worker: str, received_ns: int, decision: Decision) -> None:
    """Makes the span of a report that is refused as stale, if its attempt was traced."""
    if report.trace:
        spec = None if task is None else task.spec
        decision.effects.append(
            ef.TraceSettling(
                report.trace, False, report.id, report.fence, report.outcome, worker, received_ns, spec, refused=True
            )
        )


def taken_back(task: Task, outcome: Outcome, reason: str, now: Now, decision: Decision) -> str:
    """Makes the span of an attempt that nobody reports. Returns the span's traceparent, or "" if there is no span."""
    return _alone(task, outcome, reason, now.wall_ms * 1_000_000, decision)


def _alone(task: Task, outcome: Outcome, reason: str, since_ns: int, decision: Decision) -> str:
    spec, standing = task.spec, task.standing
    if not spec.trace or outcome not in _TOLD:
        return ""
    trace = context_of(spec, standing.fence)
    if trace:
        previous = previous_of(standing.attempts)
        links = (spec.traceparent, previous) if previous else (spec.traceparent,)
        decision.effects.append(
            ef.TraceSettling(
                trace,
                True,
                spec.id,
                standing.fence,
                outcome,
                standing.worker,
                since_ns,
                spec,
                standing.grants,
                links=links,
                reason=reason,
            )
        )
    return trace
