"""The leader does what a worker's log says comes next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gowork.leader._core.attempts import settle
from gowork.leader._core.commands import Report
from gowork.leader._core.model import Failure, FailureKind, Outcome, RetryPolicy, Standing, Status
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._runner.next_steps import next_step

KINDS = {FailureKind.HANDLER: tasks.FAILURE_KIND_HANDLER, FailureKind.NO_RETRY: tasks.FAILURE_KIND_NO_RETRY}
POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 6),
    initial_delay_ms=st.integers(1, 10_000),
    factor=st.floats(1, 100),
    max_delay_ms=st.integers(1, 1_000_000),
    jitter=st.floats(0, 1),
    no_retry=st.sampled_from([(), ("ValueError",), ("OSError",)]),
)


@given(
    POLICIES,
    st.integers(0, 5),
    st.integers(1, (1 << 63) - 1),
    st.sampled_from(list(KINDS)),
    st.none() | st.integers(0, 100_000),
)
def test_forecast_of_the_log_is_what_the_leader_decides(
    policy: RetryPolicy, used: int, fence: int, kind: FailureKind, asked_ms: int | None
) -> None:
    standing = Standing(Status.RUNNING, 1, fence, used + 3, used)
    report = Report(fence, "t", Outcome.FAILED, failure=Failure(kind, "no", "ValueError"), retry_delay_ms=asked_ms)
    after = settle(standing, report, policy, 1_000_000)

    wire = session.Report(outcome=tasks.ATTEMPT_OUTCOME_FAILED, retry_delay_ms=asked_ms)
    wire.failure.kind = KINDS[kind]
    wire.failure.type = "ValueError"
    own = RetryOptions(
        policy.max_attempts,
        policy.initial_delay_ms,
        policy.factor,
        policy.max_delay_ms,
        policy.jitter,
        tuple(policy.no_retry),
    )
    grant = session.Grant(fence=fence, attempt=used + 3, attempts_used=used)
    said = next_step(grant, tasks.Task(), own, wire)

    if after.status is Status.ERROR:
        assert said == "failed for good"
    else:
        delay_ms = after.not_before_ms - 1_000_000 if after.not_before_ms else 0
        assert said == f"retry in {delay_ms / 1000:g} s, attempt {after.attempts_used + 1} of {policy.max_attempts}"
