from leader_core import Core, spec

from gowork.leader._core.model import FailureKind, Outcome, RetryPolicy, Status


def granted(core: Core, *ids: str, retry: RetryPolicy | None = None) -> int:
    connection = core.connect(slots=10)
    core.submit(*(spec(id, retry=retry) for id in ids))
    core.dispatch()
    return connection


def test_follow_ups_are_scheduled_with_the_completion():
    core = Core()
    connection = granted(core, "a")
    core.report(connection, "a", follow_ups=(spec("b"), spec("c")))
    assert core.status("a") is Status.COMPLETED
    assert [core.status(id) for id in "bc"] == [Status.PENDING] * 2
    assert [core.task(id).seq for id in "abc"] == [1, 2, 3]


def test_follow_ups_of_a_refused_report_are_not_scheduled():
    core = Core()
    connection = granted(core, "a")
    core.report(connection, "a", fence=1, follow_ups=(spec("b"),))
    assert "b" not in core.state.tasks


def test_a_completion_that_is_reported_twice_schedules_once():
    core = Core()
    connection = granted(core, "a")
    for _ in range(2):
        core.report(connection, "a", follow_ups=(spec("b"),))
    assert core.state.next_seq == 3


def test_an_attempt_whose_follow_up_has_a_taken_id_has_failed_and_schedules_nothing():
    core = Core()
    connection = granted(core, "a", "taken")
    core.report(connection, "a", follow_ups=(spec("b"), spec("taken", body=b"other")))
    assert core.status("a") is Status.ERROR
    assert core.failure("a").kind is FailureKind.REJECTED
    assert "'taken'" in core.failure("a").message
    assert "b" not in core.state.tasks


def test_an_attempt_that_is_tried_again_schedules_its_follow_ups_once():
    core = Core()
    connection = granted(core, "a", retry=RetryPolicy(max_attempts=2, initial_delay_ms=1))
    core.report(connection, "a", Outcome.FAILED, follow_ups=(spec("b"),))
    core.pass_time(1)
    core.dispatch()
    core.report(connection, "a", follow_ups=(spec("b"),))
    assert core.status("a") is Status.COMPLETED
    assert core.status("b") is Status.PENDING
