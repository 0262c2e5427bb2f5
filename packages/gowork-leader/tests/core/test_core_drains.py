import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import DrainWorker, StartWork, Welcome
from gowork.leader._core.explain import explain
from gowork.leader._core.kinds import DRAINS, WORKER_DRAINS, Drain, WorkerDrain
from gowork.leader._core.model import FactKey, HeartbeatStatus, Liveness
from gowork.leader._core.queries import members


def liveness(core: Core) -> dict[str, Liveness]:
    return {view.id: view.liveness for view in members(core.state)}


def drains(core: Core) -> list[tuple[int, int]]:
    return [(effect.connection, effect.budget_ms) for effect in core.take_effects() if isinstance(effect, DrainWorker)]


def dialled(core: Core) -> list[str]:
    core.dispatch()
    return [effect.member for effect in core.take_effects() if isinstance(effect, StartWork)]


def test_a_worker_that_is_to_drain_gets_nothing_from_the_moment_of_the_decision():
    core = Core()
    connection = core.connect()
    assert core.do(cmd.DrainMember("w1", 30_000)).answer is None
    core.submit(spec("a"))
    assert core.dispatch() == {}
    assert drains(core) == [(connection, 30_000)]
    assert liveness(core) == {"w1": Liveness.DRAINING}
    assert "draining" in explain(core.state, core.task("a"), core.now).reasons[0].message


def test_a_frame_that_crosses_the_drain_does_not_undo_it():
    core = Core()
    connection = core.connect()
    core.do(cmd.DrainMember("w1", 0))
    core.submit(spec("a"))
    core.do(cmd.ReceiveFrame(connection, credit=10, blocked=True, draining=False))
    assert core.dispatch() == {}
    assert liveness(core) == {"w1": Liveness.DRAINING}


def test_draining_it_again_changes_nothing():
    core = Core()
    core.connect()
    core.do(cmd.DrainMember("w1", 30_000))
    core.take_effects()
    decision = core.do(cmd.DrainMember("w1", 1))
    assert (decision.answer, decision.changes, decision.effects) == (None, [], [])


def test_a_worker_that_is_away_for_a_moment_is_told_with_its_next_welcome():
    core = Core()
    core.do(cmd.CloseSession(core.connect()))
    core.do(cmd.DrainMember("w1", 5000))
    assert liveness(core) == {"w1": Liveness.DRAINING}
    assert drains(core) == []
    second = core.connect()
    first, told = (effect for effect in core.effects if isinstance(effect, Welcome | DrainWorker))
    assert isinstance(first, Welcome)
    assert told == DrainWorker(second, 5000)
    core.submit(spec("a"))
    assert core.dispatch() == {}


def test_another_worker_of_the_name_is_not_drained():
    core = Core()
    core.do(cmd.CloseSession(core.connect()))
    core.do(cmd.DrainMember("w1", 0))
    core.connect(instance="w1-2")
    assert drains(core) == []
    assert liveness(core) == {"w1": Liveness.LIVE}


@pytest.mark.parametrize("holds", [False, True], ids=["idle", "with a task"])
def test_a_worker_that_is_away_is_told_by_the_next_leader(holds: bool):
    core = Core()
    connection = core.connect()
    joined_ms = core.wall_ms
    held: tuple[cmd.HeldTask, ...] = ()
    if holds:
        core.submit(spec("runs"))
        core.dispatch()
        held = (cmd.HeldTask("runs", core.standing("runs").fence, False),)
    core.pass_time(1)
    core.do(cmd.CloseSession(connection))
    core.do(cmd.DrainMember("w1", 5000))
    for _ in range(2):
        core.restart()
        (view,) = members(core.state)
        assert (view.id, view.liveness, view.joined_ms) == ("w1", Liveness.DRAINING, joined_ms)
    core.take_effects()
    connection = core.connect(held=held)
    assert drains(core) == [(connection, 5000)]
    core.submit(spec("a"))
    assert core.dispatch() == {}


def test_a_worker_that_was_told_is_told_again_by_the_next_leader():
    core = Core()
    core.connect()
    core.do(cmd.DrainMember("w1", 0))
    core.restart()
    core.take_effects()
    connection = core.connect()
    assert drains(core) == [(connection, 0)]


@pytest.mark.parametrize("restarts", [False, True], ids=["the same leader", "and another leader after it"])
def test_a_drained_worker_whose_lease_runs_out_comes_back_drained(restarts: bool):
    core = Core()
    core.do(cmd.CloseSession(core.connect()))
    core.do(cmd.DrainMember("w1", 5000))
    core.pass_time(core.state.settings.lease + 1)
    assert liveness(core) == {"w1": Liveness.LOST}
    assert drains(core) == []
    connection = core.connect()
    assert drains(core) == [(connection, 5000)]
    if restarts:
        core.restart()
        connection = core.connect()
        assert drains(core) == [(connection, 5000)]
    assert liveness(core) == {"w1": Liveness.DRAINING}


def test_another_worker_of_a_lost_ones_name_is_not_drained():
    core = Core()
    core.do(cmd.CloseSession(core.connect()))
    core.do(cmd.DrainMember("w1", 0))
    core.pass_time(core.state.settings.lease + 1)
    core.connect(instance="w1-2")
    assert drains(core) == []
    assert liveness(core) == {"w1": Liveness.LIVE}


@pytest.mark.parametrize("ends", ["leaves", "grace", "silence", "no return", "another", "proof"])
def test_nothing_is_left_of_a_workers_drain_when_it_ends(ends: str):
    core = Core()
    connection = core.connect()
    core.do(cmd.DrainMember("w1", 5000))
    assert core.state.facts.of(WORKER_DRAINS) == {"w1-1": WorkerDrain("w1", 5000, core.wall_ms)}
    if ends == "leaves":
        core.do(cmd.ReceiveFrame(connection, leaving=True))
    elif ends == "silence":
        core.pass_time(core.state.settings.lease + 1)
    else:
        core.do(cmd.CloseSession(connection))
        if ends == "grace":
            core.pass_time(core.state.settings.reconnect_grace + 1)
        elif ends == "no return":
            core.restart()
            core.pass_time(core.state.settings.lease + 1)
        else:
            core.connect(instance="w1-2", ended=("w1-1",) if ends == "proof" else ())
    assert core.state.facts.of(WORKER_DRAINS) == {}
    assert FactKey("worker-drain", "w1-1") not in core.facts
    core.restart()
    assert liveness(core) == {}


def test_past_the_bound_no_worker_is_drained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(WORKER_DRAINS, "rows_max", 1)
    core = Core()
    core.do(cmd.CloseSession(core.connect("w1")))
    core.connect("w2")
    core.do(cmd.DrainMember("w1", 0))
    refused = core.refusal(cmd.DrainMember("w2", 0))
    assert (refused.code, refused.message.split(" ")[0]) == (cmd.TOO_MANY_MEMBERS, "1")
    assert liveness(core) == {"w1": Liveness.DRAINING, "w2": Liveness.LIVE}
    # One that is drained already is welcome all the same. If it was lost, it takes no room of others.
    core.pass_time(2)
    core.connect("w2")
    core.do(cmd.DrainMember("w2", 0))
    connection = core.connect("w1")
    assert drains(core)[-1] == (connection, 0)
    assert list(core.state.facts.of(WORKER_DRAINS)) == ["w2-1"]


def test_a_callback_worker_that_is_drained_is_not_dialled_until_it_joins_again():
    core = Core()
    core.do(cmd.Join("m", "host:1"))
    core.submit(spec("a", handler=""), spec("b", handler=""))
    assert dialled(core) == ["m"]
    core.do(cmd.DrainMember("m", 0))
    core.do(cmd.CompleteTask("a", None))
    core.do(cmd.Heartbeat("m", HeartbeatStatus.IDLE))
    assert dialled(core) == []
    assert liveness(core) == {"m": Liveness.DRAINING}
    assert "draining" in explain(core.state, core.task("b"), core.now).reasons[0].message
    core.do(cmd.Join("m", "host:1"))
    assert dialled(core) == ["m"]


def test_a_drained_callback_worker_stays_so_with_the_next_leader():
    core = Core()
    core.do(cmd.Join("m", "host:1"))
    core.do(cmd.Join("n", "host:2"))
    core.do(cmd.DrainMember("m", 0))
    core.restart()
    core.submit(spec("a", handler=""), spec("b", handler=""))
    assert dialled(core) == ["n"]
    assert liveness(core) == {"m": Liveness.DRAINING, "n": Liveness.LIVE}
    core.do(cmd.Join("m", "host:1"))
    core.restart()
    assert dialled(core) == ["m"]


def test_a_drained_callback_worker_whose_lease_runs_out_comes_back_drained():
    core = Core()
    core.do(cmd.Join("m", "host:1"))
    core.do(cmd.DrainMember("m", 0))
    core.pass_time(core.state.settings.callback_lease + 1)
    core.tick()
    assert liveness(core) == {"m": Liveness.LOST}
    for _ in range(2):
        core.do(cmd.Heartbeat("m", HeartbeatStatus.IDLE))
        core.submit(spec("a", handler=""))
        assert dialled(core) == []
        assert liveness(core) == {"m": Liveness.DRAINING}
        core.restart()


@pytest.mark.parametrize("ends", ["join", "leave", "lease"])
def test_nothing_is_left_of_a_drain_when_it_ends(ends: str):
    core = Core()
    core.do(cmd.Join("m", "host:1"))
    core.do(cmd.DrainMember("m", 0))
    assert core.state.facts.of(DRAINS) == {"m": Drain(core.wall_ms)}
    if ends == "join":
        core.do(cmd.Join("m", "host:1"))
    elif ends == "leave":
        core.do(cmd.Leave("m"))
    else:
        core.pass_time(core.state.settings.callback_lease + 1)
    assert core.state.facts.of(DRAINS) == {}
    assert FactKey("drain", "m") not in core.facts


def test_a_drain_of_a_member_that_has_joined_again_since_means_nothing():
    core = Core()
    core.do(cmd.Join("m", "host:1"))
    # A version that knows no drains let it join again. Nobody is called "gone" any more.
    for id in ("m", "gone"):
        core.facts[FactKey("drain", id)] = DRAINS.encode(Drain(core.wall_ms - 1))
    core.restart()
    assert liveness(core) == {"m": Liveness.LIVE}


def test_past_the_bound_no_callback_worker_is_drained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DRAINS, "rows_max", 1)
    core = Core()
    for id in ("m", "n"):
        core.do(cmd.Join(id, "host:1"))
    core.do(cmd.DrainMember("m", 0))
    answer = core.do(cmd.DrainMember("n", 0)).answer
    assert isinstance(answer, cmd.Refused)
    assert answer.code == cmd.TOO_MANY_MEMBERS
    assert liveness(core) == {"m": Liveness.DRAINING, "n": Liveness.LIVE}


def test_a_member_that_is_not_there_cannot_be_drained():
    core = Core()
    for id in ("nobody", "w1", "m"):
        if id == "w1":
            core.do(cmd.CloseSession(core.connect()))
            core.pass_time(2)
        elif id == "m":
            core.do(cmd.Join("m", "host:1"))
            core.do(cmd.Leave("m"))
        answer = core.do(cmd.DrainMember(id, 0)).answer
        assert isinstance(answer, cmd.Refused)
        assert answer.code == cmd.MEMBER_UNKNOWN
