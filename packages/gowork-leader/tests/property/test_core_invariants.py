"""Any sequence of commands keeps the core's invariants (ARCHITECTURE.md names them)."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from leader_core import Core, spec

from gowork.leader.core import changes as ch
from gowork.leader.core import commands as cmd
from gowork.leader.core.apply import _APPLIERS, adopt, expect
from gowork.leader.core.effects import GrantTasks
from gowork.leader.core.model import Outcome, Priority, RetryPolicy, Status, Task
from gowork.leader.core.state import State

IDS = st.sampled_from([f"t{number}" for number in range(12)])
NAMES = st.sampled_from(["w1", "w2", "w3"])
HANDLERS = st.sampled_from(["work", "other"])


def test_every_change_can_be_applied():
    assert set(_APPLIERS) == set(ch.Change.__args__)


class Cluster(RuleBasedStateMachine):
    """Workers come, go and lie; tasks are submitted, granted, reported and cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core()
        self.fence = self.core.state.fence
        self.accepted: dict[tuple[str, int], int] = {}
        #: Every grant that a worker was ever sent: (instance, id, fence).
        self.sent: list[tuple[str, str, int]] = []

    @rule(
        id=IDS,
        handler=HANDLERS,
        priority=st.sampled_from(Priority),
        attempts=st.integers(1, 3),
        delay=st.integers(0, 2),
    )
    def submit(self, id: str, handler: str, priority: Priority, attempts: int, delay: int) -> None:
        retry = RetryPolicy(max_attempts=attempts, initial_delay_ms=500)
        self.core.submit(spec(id, handler=handler, priority=priority, retry=retry, run_in_ms=delay * 1000))

    @rule(id=IDS)
    def cancel(self, id: str) -> None:
        self.core.do(cmd.Cancel(id))

    @rule(
        name=NAMES, generation=st.integers(1, 2), slots=st.integers(1, 3), buffer=st.integers(0, 3), keep=st.booleans()
    )
    def connect(self, name: str, generation: int, slots: int, buffer: int, keep: bool) -> None:
        instance = f"{name}-{generation}"
        held = tuple(cmd.Held(id, fence, False) for who, id, fence in self.sent if who == instance and keep)
        self.core.connect(
            name, instance=instance, slots=slots, credit=slots + buffer, handlers=("work", "other"), held=held
        )

    @precondition(lambda self: self.core.state.connections)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        self.core.do(cmd.CloseSession(data.draw(st.sampled_from(sorted(self.core.state.connections)))))

    @precondition(lambda self: self.core.state.connections and self.sent)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def report(self, data: st.DataObject, outcome: Outcome) -> None:
        connection = data.draw(st.sampled_from(sorted(self.core.state.connections)))
        _, id, fence = data.draw(st.sampled_from(self.sent))
        before = self.core.state.tasks[id].standing
        worker = self.core.state.connections[connection]
        self.core.do(cmd.ReceiveFrame(connection, [cmd.Report(fence, id, outcome, retry_delay_ms=100)]))
        after = self.core.state.tasks[id].standing
        rightful = before.status is Status.RUNNING and before.fence == fence and before.instance == worker.instance
        assert (after != before) is rightful
        if rightful and after.status is Status.COMPLETED:
            self.accepted[id, self.core.state.tasks[id].seq] = (
                self.accepted.get((id, self.core.state.tasks[id].seq), 0) + 1
            )

    @rule(data=st.data())
    def give_credit(self, data: st.DataObject) -> None:
        for connection, worker in list(self.core.state.connections.items()):
            self.core.do(cmd.ReceiveFrame(connection, credit=worker.granted + data.draw(st.integers(0, 3))))

    @rule()
    def dispatch(self) -> None:
        before = {worker.instance: worker.room for worker in self.core.state.connections.values()}
        before_fence = self.fence
        decision = self.core.do(cmd.Dispatch())
        for effect in decision.effects:
            assert isinstance(effect, GrantTasks)
            worker = self.core.state.connections[effect.connection]
            assert len(effect.grants) <= before[worker.instance]
            for fence, _, _, granted in effect.grants:
                assert fence > before_fence
                self.fence = max(fence, self.fence)
                self.sent.append((worker.instance, granted.id, fence))

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.5, 4.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.core.pass_time(seconds)

    @rule()
    def restart(self) -> None:
        """A new leader knows what the store knew: specs and standings."""
        old = self.core.state
        records = sorted(old.tasks.values(), key=lambda task: task.seq)
        state = State(old.settings, fence=((old.fence >> 40) + 1) << 40, next_seq=old.next_seq)
        for task in records:
            adopt(state, Task(task.seq, task.spec, task.standing))
        expect(state, self.core.mono + state.settings.lease)
        self.core.state = state

    @invariant()
    def held_by_exactly_one(self) -> None:
        state = self.core.state
        held = {(fence, id) for worker in state.workers.values() for fence, id in worker.held.items()}
        running = {
            (task.standing.fence, task.spec.id)
            for task in state.tasks.values()
            if task.standing.status is Status.RUNNING
        }
        assert held == running
        assert sum(len(worker.held) for worker in state.workers.values()) == len(running)

    @invariant()
    def pending_tasks_are_in_one_place(self) -> None:
        state = self.core.state
        in_lanes = [task.spec.id for _, lane in state.lanes.items() for task in lane]
        delayed = [task.spec.id for task in state.tasks.values() if task.delayed]
        pending = [task.spec.id for task in state.tasks.values() if task.standing.status is Status.PENDING]
        assert sorted(in_lanes + delayed) == sorted(pending)
        assert len(state.lanes) == len(in_lanes)

    @invariant()
    def lanes_are_in_order(self) -> None:
        for _, lane in self.core.state.lanes.items():
            seqs = [task.seq for task in lane]
            assert seqs == sorted(seqs)

    @invariant()
    def at_most_one_completion_is_accepted(self) -> None:
        assert all(count == 1 for count in self.accepted.values())

    @invariant()
    def live_names_are_unique(self) -> None:
        names = [worker.name for worker in self.core.state.connections.values()]
        assert len(names) == len(set(names))

    def teardown(self) -> None:
        """When faults stop, every task ends."""
        core = self.core
        core.pass_time(30)
        for connection in list(core.state.connections):
            core.do(cmd.CloseSession(connection))
        core.pass_time(30)
        connection = core.connect("last", slots=100, credit=1000, handlers=("work", "other"))
        for _ in range(3):
            for ids in core.dispatch().values():
                for id in ids:
                    core.report(connection, id)
            core.do(cmd.ReceiveFrame(connection))
            core.pass_time(5)
        assert all(task.standing.status >= Status.COMPLETED for task in core.state.tasks.values())


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
