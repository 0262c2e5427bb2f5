from leader_core import Core, spec
from msgspec.structs import replace

from gowork.base.trace_context import is_sampled, is_traceparent
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.effects import GrantTasks, TraceSettling
from gowork.leader._core.model import Outcome, Spec, Status
from gowork.leader._core.state import Settings
from gowork.leader._core.traces import context_of
from gowork.leader._wire.specs import trace_bytes

SUBMIT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ATTEMPT = "00-33333333333333333333333333333333-4444444444444444-01"


def traced(id: str, context: str = SUBMIT, state: str = "") -> Spec:
    return replace(spec(id), trace=trace_bytes(context, state))


def tracing() -> Core:
    return Core(Settings(traced=True))


def settlings(core: Core) -> list[TraceSettling]:
    return [effect for effect in core.effects if isinstance(effect, TraceSettling)]


def granted(core: Core, task: Spec) -> int:
    connection = core.connect()
    core.submit(task)
    core.dispatch()
    return connection


def previous(decision: Decision) -> list[str]:
    return [grant.previous for effect in decision.effects if isinstance(effect, GrantTasks) for grant in effect.grants]


def test_the_submits_context_is_read_from_what_is_kept():
    assert traced("a", state="vendor=1").traceparent == SUBMIT
    assert spec("a").traceparent == ""


def test_a_report_of_a_traced_attempt_is_told_of():
    core = tracing()
    connection = granted(core, spec("a"))
    core.do(cmd.ReceiveFrame(connection, [_report(core, trace=ATTEMPT)], received_ns=7))
    (settling,) = settlings(core)
    assert (settling.trace, settling.alone, settling.refused) == (ATTEMPT, False, False)
    assert (settling.id, settling.attempt, settling.worker, settling.since_ns) == ("a", 1, "w1", 7)
    assert core.standing("a").attempts[0].trace == ATTEMPT


def test_a_report_of_an_attempt_that_is_not_traced_is_not_told_of():
    core = tracing()
    core.report(granted(core, traced("a")), "a")
    assert settlings(core) == []
    assert core.standing("a").attempts[0].trace == ""


def test_a_refused_report_of_a_traced_attempt_is_told_of_as_refused():
    core = tracing()
    connection = granted(core, spec("a"))
    core.report(connection, "a", fence=1, trace=ATTEMPT)
    (settling,) = settlings(core)
    assert (settling.refused, settling.trace, settling.attempt) == (True, ATTEMPT, 0)


def test_an_attempt_that_is_lost_with_its_worker_gets_a_context_that_the_next_one_links_to():
    core = tracing()
    granted(core, traced("a"))
    fence = core.standing("a").fence
    core.pass_time(11)
    (settling,) = settlings(core)
    assert settling.alone
    assert settling.outcome is Outcome.LOST
    assert settling.links == (SUBMIT,)
    assert settling.trace == core.standing("a").attempts[0].trace == context_of(traced("a"), fence)
    core.connect("w2")
    assert previous(core.do(cmd.Dispatch())) == [settling.trace]


def test_an_attempt_that_is_lost_with_its_runner_gets_one_that_links_to_the_attempt_before_too():
    core = tracing()
    connection = granted(core, traced("a"))
    core.report(connection, "a", Outcome.SNOOZED, trace=ATTEMPT)
    core.dispatch()
    core.report(connection, "a", Outcome.LOST)
    settling = settlings(core)[-1]
    assert settling.alone
    assert settling.links == (SUBMIT, ATTEMPT)
    assert [attempt.trace for attempt in core.standing("a").attempts] == [ATTEMPT, settling.trace]


def test_an_attempt_that_is_lost_with_its_member_gets_a_context_too():
    core = tracing()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(replace(spec("a", handler=""), trace=trace_bytes(SUBMIT, "")))
    core.dispatch()
    core.pass_time(core.state.settings.callback_lease + 1)
    (settling,) = settlings(core)
    assert settling.alone
    assert settling.trace == core.standing("a").attempts[0].trace != ""


def test_what_goes_back_without_blame_and_without_a_span_is_not_told_of():
    core = tracing()
    core.report(granted(core, traced("a")), "a", Outcome.INTERRUPTED)
    assert settlings(core) == []


def test_nothing_is_made_up_for_a_submit_that_was_not_recorded_or_a_leader_that_does_not_trace():
    not_sampled = f"{SUBMIT[:-1]}0"
    for core, task in ((tracing(), traced("a", not_sampled)), (tracing(), spec("a")), (Core(), traced("a"))):
        granted(core, task)
        core.pass_time(11)
        assert settlings(core) == []
        assert core.standing("a").attempts[0].trace == ""


def test_no_two_attempts_and_no_two_submits_have_one_context():
    contexts = {context_of(task, fence) for task in (traced("a"), traced("a", ATTEMPT)) for fence in (1, 2)}
    assert len(contexts) == 4
    assert all(is_traceparent(context) and is_sampled(context) for context in contexts)


def test_an_attempt_whose_follow_up_is_refused_keeps_its_context():
    core = tracing()
    connection = granted(core, spec("a"))
    core.submit(spec("b"))
    core.report(connection, "a", trace=ATTEMPT, follow_ups=(spec("b", body=b"other"),))
    assert core.standing("a").status is Status.ERROR
    assert core.standing("a").attempts[0].trace == ATTEMPT


def _report(core: Core, *, trace: str) -> cmd.Report:
    return cmd.Report(core.standing("a").fence, "a", Outcome.COMPLETED, trace=trace)
