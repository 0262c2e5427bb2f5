from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import state
from gowork.leader._core.dispatch import FEW_LANES
from gowork.leader._core.effects import StartWork
from gowork.leader._core.explain import explain
from gowork.leader._core.model import HeartbeatStatus, Outcome, Priority, Status


def test_high_runs_before_medium_before_low_and_first_come_first_served_within():
    core = Core()
    core.submit(
        spec("l1"),
        spec("m1", priority=Priority.MEDIUM),
        spec("h1", priority=Priority.HIGH),
        spec("l2"),
        spec("h2", priority=Priority.HIGH),
    )
    connection = core.connect(slots=10)
    assert core.dispatch() == {connection: ["h1", "h2", "m1", "l1", "l2"]}


def test_order_holds_across_lanes():
    core = Core()
    core.submit(spec("a", handler="x"), spec("b", handler="y"), spec("c", handler="x"), spec("d", handler="y"))
    connection = core.connect(slots=10, handlers=("x", "y"))
    assert core.dispatch() == {connection: ["a", "b", "c", "d"]}


def test_a_task_that_went_back_keeps_its_place():
    core = Core()
    connection = core.connect(slots=1, credit=1)
    core.submit(spec("a"), spec("b"))
    core.dispatch()
    core.report(connection, "a", Outcome.INTERRUPTED)
    core.do(cmd.ReceiveFrame(connection, credit=2))
    assert core.dispatch() == {connection: ["a"]}


def test_a_lane_that_nobody_can_run_holds_up_no_other():
    core = Core()
    connection = core.connect()
    core.submit(spec("a", handler="nobody", priority=Priority.HIGH), spec("b"))
    assert core.dispatch() == {connection: ["b"]}
    assert "no worker has the handler 'nobody'" in explain(core.state, core.task("a"), core.now).reasons[0].message


def test_grants_never_exceed_the_credit():
    core = Core()
    connection = core.connect(slots=2, credit=3)
    core.submit(*(spec(str(number)) for number in range(10)))
    assert len(core.dispatch()[connection]) == 3
    assert core.dispatch() == {}
    core.do(cmd.ReceiveFrame(connection, credit=4))
    assert len(core.dispatch()[connection]) == 1


def test_tasks_go_to_the_member_with_the_most_free_slots():
    core = Core()
    small, large = core.connect("w1", slots=1), core.connect("w2", slots=3)
    core.submit(*(spec(str(number)) for number in range(4)))
    granted = core.dispatch()
    assert len(granted[small]) == 1
    assert len(granted[large]) == 3


def test_buffers_are_filled_only_when_no_slot_is_free():
    core = Core()
    buffered, plain = core.connect("w1", slots=1, credit=100), core.connect("w2", slots=4)
    core.submit(*(spec(str(number)) for number in range(5)))
    granted = core.dispatch()
    assert (len(granted[buffered]), len(granted[plain])) == (1, 4)


def test_selectors_are_honoured():
    core = Core()
    core.connect("w1", labels={"zone": "a"})
    fitting = core.connect("w2", labels={"zone": "b", "gpu": "1"})
    core.submit(spec("x", selector=(("zone", "b"),)), spec("y", selector=(("zone", "c"),)))
    assert core.dispatch() == {fitting: ["x"]}
    assert "zone=c" in explain(core.state, core.task("y"), core.now).reasons[0].message


def test_a_task_without_a_handler_goes_to_a_worker_with_a_default_one():
    core = Core()
    core.connect("w1")
    fitting = core.connect("w2", handlers=("echo",), default="echo")
    core.submit(spec("a", handler=""))
    assert core.dispatch() == {fitting: ["a"]}


def test_fences_only_grow():
    core = Core()
    connection = core.connect(credit=100)
    fences = []
    for round_ in range(3):
        core.submit(spec(f"{round_}a"), spec(f"{round_}b"))
        for ids in core.dispatch().values():
            fences += [core.standing(id).fence for id in ids]
            for id in ids:
                core.report(connection, id)
    assert fences == sorted(set(fences))
    assert len(fences) == 6


def test_a_callback_worker_gets_one_task_at_a_time():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""), spec("b", handler=""))
    core.dispatch()
    assert [effect.spec.id for effect in core.effects if isinstance(effect, StartWork)] == ["a"]
    core.do(cmd.CompleteTask("a", None))
    assert core.status("a") is Status.COMPLETED
    core.dispatch()
    assert core.status("b") is Status.RUNNING


def test_a_callback_worker_gets_no_named_handlers_no_selectors_and_no_binary_payloads():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(
        spec("a"),
        spec("b", handler="", selector=(("x", "y"),)),
        spec("c", handler="", binary=True),
        spec("d", handler=""),
    )
    core.dispatch()
    assert [id for id in "abcd" if core.status(id) is Status.RUNNING] == ["d"]


def test_a_callback_worker_that_has_failed_gets_nothing_until_it_is_idle():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.FAILED))
    core.submit(spec("a", handler=""))
    core.dispatch()
    assert core.status("a") is Status.PENDING
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    core.dispatch()
    assert core.status("a") is Status.RUNNING


def test_a_callback_worker_that_is_idle_after_a_restart_does_not_hold_what_it_was_given_before():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""))
    core.dispatch()
    # It may have crossed the call.
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    assert core.status("a") is Status.RUNNING
    core.restart()
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.BUSY))
    assert core.status("a") is Status.RUNNING
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    assert core.status("a") is Status.PENDING
    core.dispatch()
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    assert core.status("a") is Status.RUNNING


def test_a_report_without_a_fence_is_accepted_only_for_what_a_callback_worker_holds():
    core = Core()
    core.connect()
    core.submit(spec("a"), spec("b", handler="nobody"))
    core.dispatch()
    for id in ("a", "b"):
        answer = core.do(cmd.CompleteTask(id, None)).answer
        assert isinstance(answer, cmd.Refused)
        assert answer.code == cmd.NOT_HELD
    assert core.refusal(cmd.CompleteTask("unknown", None)).code == cmd.TASK_UNKNOWN


def test_a_callback_worker_that_could_not_be_dialled_gives_its_task_back_and_rests():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""))
    core.dispatch()
    core.do(cmd.RefuseStart("c1", "a", core.standing("a").fence, "unreachable"))
    assert core.status("a") is Status.PENDING
    core.dispatch()
    assert core.status("a") is Status.PENDING
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.IDLE))
    core.dispatch()
    assert core.status("a") is Status.RUNNING


def test_a_callback_worker_is_lost_with_its_lease():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""))
    core.dispatch()
    core.pass_time(44)
    core.do(cmd.Heartbeat("c1", HeartbeatStatus.BUSY))
    core.pass_time(44)
    assert core.status("a") is Status.RUNNING
    core.pass_time(1)
    assert core.status("a") is Status.PENDING
    assert list(core.state.departed) == ["c1"]


def test_a_cancelled_callback_task_ends_when_its_member_confirms():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    assert core.status("a") is Status.RUNNING
    core.do(cmd.ConfirmStop("a", core.standing("a").fence))
    assert core.status("a") is Status.CANCELLED


def test_a_second_join_replaces_the_first_and_gives_back_its_task():
    core = Core()
    core.do(cmd.Join("c1", "127.0.0.1:40041"))
    core.submit(spec("a", handler=""))
    core.dispatch()
    core.do(cmd.Join("c1", "127.0.0.1:40042"))
    assert core.status("a") is Status.PENDING
    assert core.state.callbacks["c1"].address == "127.0.0.1:40042"


def test_no_credit_makes_a_worker_hold_more_than_the_bound(monkeypatch):
    monkeypatch.setattr(state, "HELD_MAX", 3)
    core = Core()
    connection = core.connect(slots=1, credit=(1 << 64) - 1)
    core.submit(*(spec(str(number)) for number in range(5)))
    assert core.dispatch() == {connection: ["0", "1", "2"]}
    core.report(connection, "0")
    assert core.dispatch() == {connection: ["3"]}


def test_a_run_of_grants_leaves_to_a_callback_worker_what_has_no_free_slot() -> None:
    core = Core()
    core.connect(slots=2, credit=6, default="work")
    core.do(cmd.Join("old", "127.0.0.1:1"))
    core.submit(*[spec(f"t{each}", handler="") for each in range(5)])
    core.dispatch()
    assert [core.standing(f"t{each}").worker for each in range(5)] == ["w1", "w1", "old", "w1", "w1"]


def test_among_many_lanes_a_callback_worker_alone_gets_its_task() -> None:
    core = Core()
    core.do(cmd.Join("old", "127.0.0.1:1"))
    core.submit(*[spec(f"t{each}", handler="", key=f"k{each}") for each in range(FEW_LANES + 1)])
    core.dispatch()
    assert core.standing("t0").worker == "old"


def test_a_configured_queue_without_work_has_no_claim_to_the_turns_that_it_missed() -> None:
    core = Core()
    core.do(cmd.ConfigureQueue("quiet", weight=2))
    worker = core.connect(slots=40, credit=40)
    core.submit(*[spec(f"a{each}", queue="busy") for each in range(30)], spec("b", queue="other"))
    core.dispatch()
    core.submit(*[spec(f"c{each}", queue="busy") for each in range(8)])
    core.submit(*[spec(f"q{each}", queue="quiet") for each in range(8)])
    assert any(id.startswith("c") for id in core.dispatch()[worker][:8])
