from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.apply import adopt, expect
from gowork.leader._core.effects import CancelTasks, EndSession, Ping, ReleaseTasks, Welcome
from gowork.leader._core.model import Liveness, Outcome, Status
from gowork.leader._core.queries import members
from gowork.leader._core.state import Settings, State


def held(core: Core, id: str, *, finished: bool = False) -> cmd.HeldTask:
    return cmd.HeldTask(id, core.standing(id).fence, finished)


def liveness(core: Core) -> dict[str, Liveness]:
    return {view.id: view.liveness for view in members(core.state)}


def test_a_worker_that_comes_back_within_the_grace_keeps_its_tasks():
    core = Core()
    first = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.CloseSession(first))
    core.pass_time(0.9)
    core.connect(held=(held(core, "a"),))
    core.pass_time(5)
    assert core.status("a") is Status.RUNNING


def test_tasks_of_a_worker_that_does_not_come_back_are_run_elsewhere():
    core = Core()
    core.do(cmd.CloseSession(_running(core)))
    other = core.connect("w2")
    assert core.dispatch() == {}
    core.pass_time(1)
    assert core.dispatch() == {other: ["a"]}
    assert core.standing("a").attempts[0].outcome is Outcome.LOST
    assert not core.standing("a").suspect
    assert liveness(core) == {"w1": Liveness.LOST, "w2": Liveness.LIVE}


def test_a_silent_worker_loses_its_tasks_with_its_lease_and_not_before():
    core = Core()
    connection = _running(core)
    core.pass_time(9.9)
    assert core.status("a") is Status.RUNNING
    core.do(cmd.ReceiveFrame(connection))
    core.pass_time(9.9)
    assert core.status("a") is Status.RUNNING
    core.pass_time(0.2)
    assert core.status("a") is Status.PENDING
    ended = [effect for effect in core.effects if isinstance(effect, EndSession)]
    assert ended[0].refusal is not None
    assert ended[0].refusal.code == cmd.LEASE_EXPIRED


def test_a_grant_that_did_not_arrive_goes_back_free_of_charge():
    core = Core()
    core.do(cmd.CloseSession(_running(core)))
    second = core.connect(held=())
    assert core.standing("a").attempts[0].outcome is Outcome.INTERRUPTED
    assert core.dispatch() == {second: ["a"]}


def test_what_a_worker_no_longer_holds_rightfully_is_released():
    core = Core()
    connection = _running(core)
    stale = held(core, "a")
    core.do(cmd.CloseSession(connection))
    core.pass_time(1)
    core.connect("w2")
    core.dispatch()
    core.take_effects()
    back = core.connect("w1", held=(stale,))
    assert ReleaseTasks(back, [stale.fence]) in core.effects


def test_a_finished_task_is_not_released_because_its_report_follows():
    core = Core()
    connection = _running(core)
    done = held(core, "a", finished=True)
    core.report(connection, "a")
    core.do(cmd.CloseSession(connection))
    core.take_effects()
    core.connect("w1", held=(done,))
    assert not [effect for effect in core.effects if isinstance(effect, ReleaseTasks)]


def test_a_cancel_that_was_missed_is_asked_again_when_the_worker_is_back():
    core = Core()
    connection = _running(core)
    core.do(cmd.CloseSession(connection))
    core.do(cmd.Cancel("a"))
    back = core.connect("w1", held=(held(core, "a"),))
    assert CancelTasks(back, [core.standing("a").fence]) in core.effects


def test_a_second_worker_of_a_live_name_is_turned_away():
    core = Core()
    first = core.connect("w1", instance="one")
    second = core.connect("w1", instance="two")
    assert core.effects[-1] == Ping(first)
    core.do(cmd.ReceiveFrame(first))
    ended = [effect for effect in core.effects if isinstance(effect, EndSession)]
    assert [(end.connection, end.refusal and end.refusal.code) for end in ended] == [(second, cmd.NAME_TAKEN)]
    assert core.state.names["w1"].instance == "one"


def test_a_name_whose_holder_does_not_answer_goes_to_the_newcomer():
    core = Core()
    first = core.connect("w1", instance="one")
    second = core.connect("w1", instance="two")
    core.pass_time(2)
    assert Welcome(second) in core.effects
    assert [effect.connection for effect in core.effects if isinstance(effect, EndSession)] == [first]
    assert core.state.names["w1"].instance == "two"


def test_a_newcomer_gets_the_name_of_a_worker_whose_lease_runs_out_at_the_same_moment():
    core = Core()
    core.connect("w1", instance="one")
    second = core.connect("w1", instance="two")
    core.pass_time(11)
    assert Welcome(second) in core.effects
    assert list(core.state.workers) == ["two"]


def test_a_newcomer_gets_the_name_when_its_holder_hangs_up():
    core = Core()
    first = core.connect("w1", instance="one")
    second = core.connect("w1", instance="two")
    core.do(cmd.CloseSession(first))
    assert Welcome(second) in core.effects


def test_the_tasks_of_a_replaced_instance_wait_for_its_lease():
    core = Core()
    _running(core)
    core.connect("w1", instance="two")
    core.pass_time(2)
    assert core.status("a") is Status.RUNNING
    core.pass_time(10)
    assert core.status("a") is Status.PENDING


def test_the_same_instance_replaces_its_older_stream():
    core = Core()
    first = core.connect("w1")
    second = core.connect("w1")
    assert [effect.connection for effect in core.effects if isinstance(effect, EndSession)] == [first]
    assert list(core.state.connections) == [second]


def test_a_worker_that_leaves_gives_back_what_it_holds():
    core = Core()
    connection = _running(core)
    core.do(cmd.ReceiveFrame(connection, draining=True))
    assert liveness(core) == {"w1": Liveness.DRAINING}
    core.do(cmd.ReceiveFrame(connection, leaving=True))
    assert core.status("a") is Status.PENDING
    assert liveness(core) == {"w1": Liveness.LEFT}
    assert core.effects[-1] == EndSession(connection, None)


def test_what_is_reported_with_the_leaving_is_not_taken_back():
    core = Core()
    connection = _running(core)
    report = cmd.Report(core.standing("a").fence, "a", Outcome.COMPLETED)
    core.do(cmd.ReceiveFrame(connection, [report], leaving=True))
    assert core.status("a") is Status.COMPLETED


def test_a_draining_worker_gets_nothing_new():
    core = Core()
    connection = core.connect()
    core.do(cmd.ReceiveFrame(connection, draining=True))
    core.submit(spec("a"))
    assert core.dispatch() == {}


def test_a_blocked_worker_shows_and_recovers():
    core = Core()
    connection = core.connect()
    core.do(cmd.ReceiveFrame(connection, blocked=True))
    assert liveness(core) == {"w1": Liveness.BLOCKED}
    core.do(cmd.ReceiveFrame(connection, blocked=False))
    assert liveness(core) == {"w1": Liveness.LIVE}


def test_sessions_past_the_limit_are_turned_away():
    core = Core()
    core.state.settings.sessions_max = 1
    core.connect("w1")
    core.take_effects()
    core.connect("w2")
    effect = core.effects[0]
    assert isinstance(effect, EndSession)
    assert effect.refusal is not None
    assert effect.refusal.code == cmd.TOO_MANY_SESSIONS


def test_a_stall_of_the_leader_extends_every_lease():
    core = Core()
    _running(core)
    core.mono += 30
    core.do(cmd.ExtendLeases(30))
    core.tick()
    assert core.status("a") is Status.RUNNING


def _running(core: Core) -> int:
    connection = core.connect()
    core.submit(spec("a"))
    assert core.dispatch() == {connection: ["a"]}
    return connection


def test_a_restarted_worker_that_proves_the_end_of_its_predecessor_has_its_tasks_run_again_at_once():
    core = Core()
    core.do(cmd.CloseSession(_running(core)))
    second = core.connect(instance="w1-2", ended=("w1-1",))
    assert core.dispatch() == {second: ["a"]}
    standing = core.standing("a")
    assert standing.attempts[0].outcome is Outcome.LOST
    assert "restarted" in standing.attempts[0].reason
    assert (standing.suspect, standing.lost_alone, standing.attempts_used) == (False, 0, 0)
    assert liveness(core) == {"w1": Liveness.LIVE}
    core.pass_time(20)
    assert "w1-1" not in core.state.workers


def test_the_proof_holds_while_the_lease_of_a_new_leader_runs():
    core = Core()
    _running(core)
    restarted = Core()
    restarted.state = State(core.state.settings, fence=2 << 40, next_seq=2)
    adopt(restarted.state, core.state.tasks["a"])
    expect(restarted.state, restarted.mono + 10)
    second = restarted.connect(instance="w1-2", ended=("w1-1",))
    assert restarted.dispatch() == {second: ["a"]}


def test_the_proof_of_one_that_was_asked_for_a_sign_of_life_holds_too():
    for end in ("broken", "silent"):
        core = Core()
        first = _running(core)
        second = core.connect(instance="w1-2", ended=("w1-1",))
        assert core.dispatch() == {}
        if end == "broken":
            core.do(cmd.CloseSession(first))
        else:
            core.pass_time(2)
        core.do(cmd.ReceiveFrame(second, credit=4))
        assert core.dispatch() == {second: ["a"]}
        assert core.standing("a").attempts[0].outcome is Outcome.LOST


def test_one_whose_lease_ran_out_in_the_same_moment_is_lost_once():
    core = Core(Settings(challenge_wait=10.0))
    _running(core)
    second = core.connect(instance="w1-2", ended=("w1-1",))
    core.pass_time(10)
    core.do(cmd.ReceiveFrame(second, credit=4))
    assert core.dispatch() == {second: ["a"]}
    assert len(core.standing("a").attempts) == 1


def test_one_whose_grace_ran_out_in_the_same_moment_is_lost_once():
    core = Core(Settings(reconnect_grace=5.0, challenge_wait=5.0))
    core.do(cmd.CloseSession(_running(core)))
    core.connect(instance="w1-2")
    third = core.connect(instance="w1-3", ended=("w1-1",))
    core.pass_time(5)
    core.do(cmd.ReceiveFrame(third, credit=4))
    assert core.dispatch() == {third: ["a"]}
    assert len(core.standing("a").attempts) == 1


def test_an_instance_of_another_name_or_one_that_lives_has_not_ended():
    core = Core()
    _running(core)
    core.connect("w2", ended=("w1-1", "nobody", "w2-1"))
    assert core.dispatch() == {}
    assert core.status("a") is Status.RUNNING
    core.do(cmd.CloseSession(1))
    core.connect("w2", ended=("w1-1",))
    assert core.status("a") is Status.RUNNING
