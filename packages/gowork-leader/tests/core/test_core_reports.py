"""What reports, hellos and losses do, in the order in which they come and more than one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from leader_core import Core, spec
from msgspec.structs import replace

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import Acknowledge, EndSession
from gowork.leader._core.model import FailureKind, HeartbeatStatus, Outcome, Spec, Status
from gowork.leader._core.state import Settings


def cancelled_while_it_runs(core: Core, **connect: Any) -> int:
    connection = core.connect(**connect)
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    assert core.status("a") is Status.RUNNING
    return connection


def lease_ends(core: Core, connection: int) -> None:
    core.pass_time(10.1)


def comes_back_without_it(core: Core, connection: int) -> None:
    core.connect()


def leaves(core: Core, connection: int) -> None:
    core.do(cmd.ReceiveFrame(connection, leaving=True))


def is_proven_to_have_ended(core: Core, connection: int) -> None:
    core.do(cmd.CloseSession(connection))
    core.connect(instance="w1-2", ended=("w1-1",))


@pytest.mark.parametrize("loss", [lease_ends, comes_back_without_it, leaves, is_proven_to_have_ended])
def test_a_task_whose_cancel_was_asked_for_does_not_run_again_when_its_worker_is_lost(
    loss: Callable[[Core, int], None],
) -> None:
    core = Core()
    loss(core, cancelled_while_it_runs(core))
    assert core.status("a") is Status.CANCELLED
    core.connect("w2", instance="w2-1")
    assert core.dispatch() == {}


def test_a_task_whose_cancel_was_asked_for_does_not_run_again_when_its_member_leaves() -> None:
    core = Core()
    core.do(cmd.Join("m", "127.0.0.1:1"))
    core.do(cmd.Heartbeat("m", HeartbeatStatus.IDLE))
    core.submit(spec("a", handler=""))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    core.do(cmd.Leave("m"))
    assert core.status("a") is Status.CANCELLED


def two_reports(core: Core, first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """One frame with the completions of a and b and these follow-ups; answers the connection."""
    connection = core.connect()
    core.submit(spec("a"), spec("b"), spec("taken", handler="nobody"))
    core.dispatch()
    reports = [
        cmd.Report(core.standing(id).fence, id, Outcome.COMPLETED, follow_ups=tuple(map(follow_up, ids)))
        for id, ids in (("a", first), ("b", second))
    ]
    core.do(cmd.ReceiveFrame(connection, reports))
    return connection


def follow_up(id: str) -> Spec:
    """A task; what stands behind a slash is its content."""
    name, _, content = id.partition("/")
    return spec(name, body=(content or name).encode(), handler="nobody")


def test_a_rejected_report_leaves_the_ids_of_its_follow_ups_free() -> None:
    core = Core()
    two_reports(core, ("n", "taken/other"), ("n/another",))
    rejected = core.standing("a").failure
    assert rejected is not None
    assert rejected.kind is FailureKind.REJECTED
    assert core.status("b") is Status.COMPLETED
    assert core.task("n").spec.body == b"another"


def test_follow_ups_of_one_frame_have_places_of_their_own() -> None:
    core = Core()
    two_reports(core, ("n1", "n2"), ("n3",))
    places = [core.task(id).seq for id in ("a", "b", "taken", "n1", "n2", "n3")]
    assert places == sorted(set(places))
    core.submit(spec("last"))
    assert core.task("last").seq == places[-1] + 1


def test_a_predecessor_whose_connection_lives_has_not_ended_whatever_the_newcomer_says() -> None:
    core = Core()
    core.connect()
    core.submit(spec("a"))
    core.dispatch()
    # ONE-NAME keeps a newcomer from coming so far. What it says is not believed even so.
    del core.state.names["w1"]
    core.connect(instance="w1-2", ended=("w1-1",))
    assert core.status("a") is Status.RUNNING
    assert core.standing("a").instance == "w1-1"


def test_a_worker_that_is_back_is_granted_nothing_before_it_gives_credit() -> None:
    core = Core()
    core.connect(credit=4)
    held = cmd.HeldTask("a", 0, finished=False)
    core.submit(spec("a"))
    core.dispatch()
    core.connect(credit=0, held=(replace(held, fence=core.standing("a").fence),))
    core.submit(spec("b"))
    assert core.dispatch() == {}


def test_credit_only_grows() -> None:
    core = Core()
    connection = core.connect(credit=2)
    core.do(cmd.ReceiveFrame(connection, credit=1))
    core.submit(spec("a"), spec("b"), spec("c"))
    assert core.dispatch() == {connection: ["a", "b"]}


def test_the_same_report_twice_in_one_frame_is_taken_once() -> None:
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    report = cmd.Report(core.standing("a").fence, "a", Outcome.FAILED)
    core.take_effects()
    core.do(cmd.ReceiveFrame(connection, [report, report]))
    assert len(core.standing("a").attempts) == 1
    assert core.effects == [Acknowledge(connection, (report.fence,), [])]


def by_columns(reports: Sequence[cmd.Report]) -> cmd.Completions:
    return cmd.Completions(
        [report.id for report in reports],
        [report.fence for report in reports],
        [report.execution_us for report in reports],
        [report.result for report in reports],
        [report.result_data for report in reports],
        [report.trace for report in reports],
    )


@pytest.mark.parametrize("traced", [False, True])
def test_completions_by_columns_do_what_as_many_reports_do(traced: bool) -> None:
    """Taken ones, one of a task that was cancelled meanwhile, stale ones, unknown ones, and one that comes again."""
    found = []
    for first in (0, 3, 9):
        core = Core(Settings(traced=traced))
        connection = core.connect(slots=9)
        core.submit(*(spec(id) for id in "abcd"))
        core.dispatch()
        core.report(connection, "a", Outcome.FAILED)
        core.dispatch()
        core.report(connection, "d", result="before")
        core.do(cmd.Cancel("c"))
        fences = {id: core.standing(id).fence for id in "abcd"}
        reports = [
            cmd.Report(fences["a"], "a", Outcome.COMPLETED, "", b"data", execution_us=1_500_000),
            cmd.Report(fences["b"], "b", Outcome.COMPLETED, "text", trace=f"00-{'1' * 32}-{'2' * 16}-01"),
            cmd.Report(fences["c"], "c", Outcome.COMPLETED, execution_us=7),
            cmd.Report(fences["b"], "b", Outcome.COMPLETED, "again"),
            cmd.Report(fences["b"], "a", Outcome.COMPLETED, "again"),
            cmd.Report(1, "a", Outcome.COMPLETED, "stale", trace=f"00-{'3' * 32}-{'4' * 16}-01"),
            cmd.Report(2, "unknown", Outcome.COMPLETED),
            cmd.Report(fences["d"], "d", Outcome.COMPLETED, "after"),
        ]
        core.take_effects()
        columns = (by_columns(reports[first:5]), by_columns(reports[max(first, 5) :]))
        core.do(cmd.ReceiveFrame(connection, reports[:first], received_ns=5, completions=columns))
        found.append((core.stored, core.take_effects()))
        (acknowledged,) = [effect for effect in found[-1][1] if isinstance(effect, Acknowledge)]
        assert acknowledged.refused == [1, 2]
        assert list(acknowledged.fences) == [fences["a"], fences["b"], fences["c"], 1, 2, fences["d"]]
        assert (core.standing("b").result, core.standing("d").result) == ("text", "before")
    assert found[0] == found[1] == found[2]


def test_a_worker_that_leaves_with_its_reports_by_columns_loses_no_task() -> None:
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    columns = by_columns([cmd.Report(core.standing("a").fence, "a", Outcome.COMPLETED)])
    core.do(cmd.ReceiveFrame(connection, leaving=True, completions=[columns]))
    assert core.status("a") is Status.COMPLETED
    assert len(core.standing("a").attempts) == 1


def test_a_retry_by_hand_is_refused_when_no_more_may_be_pending() -> None:
    core = Core(Settings(pending_max=1))
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a", Outcome.FAILED)
    core.submit(spec("b", handler="nobody"))
    answer = core.do(cmd.RetryTask("a")).answer
    assert isinstance(answer, cmd.Refused)
    assert answer.code is cmd.TOO_MANY_TASKS
    assert core.status("a") is Status.ERROR


def ended(core: Core) -> list[tuple[int, str]]:
    """(connection, reason) of the sessions that were ended."""
    return [
        (effect.connection, effect.refusal.code.reason)
        for effect in core.take_effects()
        if isinstance(effect, EndSession) and effect.refusal is not None
    ]


def test_a_worker_does_not_get_the_name_of_a_callback_worker() -> None:
    core = Core()
    core.do(cmd.Join("w1", "127.0.0.1:1"))
    connection = core.connect("w1")
    assert ended(core) == [(connection, "NAME_TAKEN")]
    assert not core.state.workers


def test_of_two_newcomers_for_one_name_the_second_is_turned_away() -> None:
    core = Core()
    core.connect()
    first = core.connect(instance="w1-2")
    second = core.connect(instance="w1-3")
    assert ended(core) == [(second, "NAME_TAKEN")]
    core.pass_time(2.1)
    assert core.state.connections[first].instance == "w1-2"


def test_progress_under_a_stale_fence_is_not_taken() -> None:
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    fence = core.standing("a").fence
    core.do(cmd.ReceiveFrame(connection, progress=[cmd.ProgressReport(fence - 1, "a", 0.9, "stale")]))
    assert core.task("a").progress is None
    core.do(cmd.ReceiveFrame(connection, progress=[cmd.ProgressReport(fence, "a", 0.5, "")]))
    progress = core.task("a").progress
    assert progress is not None
    assert progress.fraction == 0.5


def test_a_free_callback_worker_goes_before_the_buffer_of_a_busy_worker() -> None:
    core = Core()
    connection = core.connect(slots=1, credit=5, handlers=("h",), default="h")
    core.submit(spec("a", handler=""))
    assert core.dispatch() == {connection: ["a"]}
    core.do(cmd.Join("m", "127.0.0.1:1"))
    core.do(cmd.Heartbeat("m", HeartbeatStatus.IDLE))
    core.submit(spec("b", handler=""), spec("c", handler=""))
    assert core.dispatch() == {connection: ["c"]}
    assert core.standing("b").worker == "m"
