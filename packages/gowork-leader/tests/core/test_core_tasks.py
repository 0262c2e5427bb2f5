from leader_core import WALL_MS, Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.attempts import retry_delay_ms
from gowork.leader._core.effects import Acknowledge, CancelTasks
from gowork.leader._core.model import Failure, FailureKind, Outcome, RetryPolicy, Status


def refused(answer: object) -> str:
    assert isinstance(answer, cmd.Refused)
    return answer.code.reason


def test_a_new_task_is_pending():
    core = Core()
    assert core.submit(spec("a"), spec("b")) == cmd.Submitted(2, 0)
    assert core.status("a") is Status.PENDING
    assert core.standing("a").created_ms == WALL_MS


def test_the_same_task_again_changes_nothing():
    core = Core()
    core.submit(spec("a"))
    assert core.submit(spec("a"), spec("b"), spec("b")) == cmd.Submitted(1, 2)


def test_another_task_under_a_taken_id_refuses_the_whole_batch_and_is_named():
    core = Core()
    core.submit(spec("a"))
    answer = core.submit(spec("x"), spec("a", body=b"other"))
    assert isinstance(answer, cmd.Refused)
    assert refused(answer) == "TASK_EXISTS"
    assert [field for field, _ in answer.violations] == ["tasks[1].id"]
    assert "x" not in core.state.tasks


def test_two_tasks_with_one_id_in_a_batch_are_refused():
    answer = Core().submit(spec("a"), spec("a", body=b"other"))
    assert isinstance(answer, cmd.Refused)
    assert refused(answer) == "TASK_EXISTS"
    assert "earlier in this batch" in answer.violations[0][1]


def test_submits_stop_at_the_limit_of_pending_tasks():
    core = Core()
    core.state.settings.pending_max = 2
    assert core.submit(spec("a"), spec("b")) == cmd.Submitted(2, 0)
    assert refused(core.submit(spec("c"))) == "TOO_MANY_TASKS"
    assert core.submit(spec("a")) == cmd.Submitted(0, 1)


def test_a_pending_task_is_cancelled_at_once_and_not_granted():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"), spec("b"))
    core.do(cmd.Cancel("a"))
    assert core.status("a") is Status.CANCELLED
    assert core.dispatch() == {connection: ["b"]}


def test_a_running_task_is_cancelled_only_when_its_worker_confirms():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    assert core.status("a") is Status.RUNNING
    assert core.standing("a").cancel_requested
    assert CancelTasks(connection, (core.standing("a").fence,)) in core.effects
    core.report(connection, "a", Outcome.CANCELLED)
    assert core.status("a") is Status.CANCELLED


def test_a_completion_that_comes_before_the_cancel_counts():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    core.report(connection, "a", result="1")
    assert core.status("a") is Status.COMPLETED


def test_a_task_that_was_to_be_cancelled_is_not_tried_again():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", retry=RetryPolicy(max_attempts=5)))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    core.report(connection, "a", Outcome.FAILED)
    assert core.status("a") is Status.CANCELLED


def test_cancelling_twice_is_harmless_and_cancelling_a_finished_task_is_refused():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"), spec("b"))
    core.do(cmd.Cancel("a"))
    assert core.do(cmd.Cancel("a")).answer is None
    core.dispatch()
    core.report(connection, "b")
    assert refused(core.do(cmd.Cancel("b")).answer) == "TASK_FINISHED"
    assert refused(core.do(cmd.Cancel("nobody")).answer) == "TASK_UNKNOWN"


def test_a_failed_task_ends_with_error_when_it_has_no_policy():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED, failure=Failure(FailureKind.HANDLER, "no", "ValueError"))
    standing = core.standing("a")
    assert standing.status is Status.ERROR
    assert standing.failure == Failure(FailureKind.HANDLER, "no", "ValueError")
    assert standing.attempts[0].outcome is Outcome.FAILED


def test_a_failed_task_is_tried_again_after_its_delay():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", retry=RetryPolicy(max_attempts=3, initial_delay_ms=1000, factor=2)))
    for delay in (1.0, 2.0):
        assert core.dispatch() == {connection: ["a"]}
        core.report(connection, "a", Outcome.FAILED)
        core.do(cmd.ReceiveFrame(connection, credit=10))
        core.pass_time(delay - 0.01)
        assert core.dispatch() == {}
        core.pass_time(0.01)
    assert core.dispatch() == {connection: ["a"]}
    core.report(connection, "a", Outcome.TIMED_OUT)
    assert core.status("a") is Status.ERROR
    assert core.standing("a").attempts_used == 3
    assert core.failure("a").kind is FailureKind.TIMEOUT


def test_delays_grow_by_their_factor_up_to_the_most_and_are_spread_by_their_jitter():
    steady = RetryPolicy(10, initial_delay_ms=100, factor=3.0, max_delay_ms=1000)
    assert [retry_delay_ms(steady, used, 1) for used in (1, 2, 3, 4, 1000)] == [100, 300, 900, 1000, 1000]
    spread = RetryPolicy(10, initial_delay_ms=1000, factor=1.0, jitter=0.4)
    delays = [retry_delay_ms(spread, 1, fence) for fence in range(1 << 40, (1 << 40) + 1000)]
    assert 600 <= min(delays) < 620
    assert 980 < max(delays) <= 1000
    # Neighbours, which often fail together, are apart.
    assert len(set(delays[:100])) > 80


def test_the_policy_of_the_handler_holds_where_the_task_has_none():
    core = Core()
    connection = core.connect(retry=RetryPolicy(max_attempts=2, initial_delay_ms=10))
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    assert core.status("a") is Status.PENDING


def test_errors_that_are_named_are_not_tried_again():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", retry=RetryPolicy(max_attempts=5, no_retry=("KeyError",))))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED, failure=Failure(FailureKind.HANDLER, "", "KeyError"))
    assert core.status("a") is Status.ERROR


def test_a_rejected_task_is_not_tried_again():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", retry=RetryPolicy(max_attempts=5)))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED, failure=Failure(FailureKind.REJECTED, "payload"))
    assert core.status("a") is Status.ERROR


def test_interrupted_and_snoozed_attempts_count_for_nothing():
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.INTERRUPTED)
    assert core.dispatch() == {connection: ["a"]}
    core.report(connection, "a", Outcome.SNOOZED, retry_delay_ms=500)
    assert core.dispatch() == {}
    core.pass_time(0.5)
    assert core.dispatch() == {connection: ["a"]}
    assert core.standing("a").attempts_used == 0
    assert core.standing("a").grants == 3


def test_only_losses_of_a_task_alone_put_it_into_quarantine():
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a"))
    for lost in range(4):
        assert core.dispatch() == {connection: ["a"]}
        assert core.standing("a").suspect is (lost > 0)
        core.report(connection, "a", Outcome.LOST, reason="signal 11")
    assert core.status("a") is Status.ERROR
    assert core.failure("a").kind is FailureKind.QUARANTINED
    assert "signal 11" in core.failure("a").message


def test_a_delayed_task_starts_at_its_time():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", run_in_ms=5000))
    assert core.dispatch() == {}
    core.pass_time(4.999)
    assert core.dispatch() == {}
    core.pass_time(0.001)
    assert core.dispatch() == {connection: ["a"]}


def test_a_delayed_task_can_be_cancelled():
    core = Core()
    core.connect()
    core.submit(spec("a", run_in_ms=5000))
    core.do(cmd.Cancel("a"))
    core.pass_time(6)
    assert core.dispatch() == {}
    assert core.status("a") is Status.CANCELLED


def test_a_task_that_is_not_started_by_its_expiry_ends_with_error():
    core = Core()
    core.submit(spec("a", expires_in_ms=1000), spec("b", run_in_ms=2000, expires_in_ms=1000))
    core.pass_time(1)
    for id in "ab":
        assert core.status(id) is Status.ERROR
        assert core.failure(id).kind is FailureKind.EXPIRED


def test_a_task_that_runs_does_not_expire():
    core = Core()
    core.connect()
    core.submit(spec("a", expires_in_ms=1000))
    core.dispatch()
    core.pass_time(2)
    assert core.status("a") is Status.RUNNING


def test_a_task_that_comes_back_after_its_expiry_is_not_started_again():
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a", expires_in_ms=1000))
    core.dispatch()
    core.pass_time(2)
    core.report(connection, "a", Outcome.INTERRUPTED)
    core.pass_time(0)
    assert core.dispatch() == {}
    assert core.failure("a").kind is FailureKind.EXPIRED


def test_a_task_that_comes_back_after_its_expiry_is_not_started_again_in_the_same_batch():
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a", expires_in_ms=1000))
    core.dispatch()
    core.pass_time(2)
    core.report(connection, "a", Outcome.INTERRUPTED)
    # Its time was dealt with while it ran: no tick comes between.
    assert core.dispatch() == {}
    assert core.failure("a").kind is FailureKind.EXPIRED


def test_a_report_with_a_stale_fence_is_refused_and_moves_nothing():
    core = Core()
    connection = core.connect(credit=10)
    core.submit(spec("a"))
    core.dispatch()
    stale = core.standing("a").fence
    core.report(connection, "a", Outcome.INTERRUPTED)
    core.dispatch()
    core.take_effects()
    core.report(connection, "a", fence=stale, result="old")
    assert core.status("a") is Status.RUNNING
    assert core.effects == [Acknowledge(connection, (stale,), [stale])]


def test_a_report_of_another_instance_is_refused():
    core = Core()
    core.connect("w1")
    other = core.connect("w2", handlers=())
    core.submit(spec("a"))
    core.dispatch()
    core.take_effects()
    core.report(other, "a")
    assert core.status("a") is Status.RUNNING
    effect = core.effects[-1]
    assert isinstance(effect, Acknowledge)
    assert effect.refused == [core.standing("a").fence]


def test_a_report_that_was_accepted_before_is_acknowledged_again_and_not_counted_as_stale():
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a")
    core.take_effects()
    fence = core.standing("a").fence
    core.report(connection, "a")
    assert core.effects == [Acknowledge(connection, (fence,), [])]
    assert len(core.standing("a").attempts) == 1
