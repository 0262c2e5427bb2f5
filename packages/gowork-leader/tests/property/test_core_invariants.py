"""Any sequence of commands keeps the core's invariants (ARCHITECTURE.md names them)."""

from __future__ import annotations

from collections import Counter
from copy import copy
from functools import partial
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from leader_core import Core, spec, weight
from leader_core import lane as lane_key
from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import roster
from gowork.leader._core.apply import _APPLIERS
from gowork.leader._core.dependents import Verdict
from gowork.leader._core.effects import Grant, GrantTasks
from gowork.leader._core.kinds import AFTER, UNIQUE_KEYS, WORKER_DRAINS
from gowork.leader._core.model import (
    AfterRule,
    LaneKey,
    OnLost,
    Outcome,
    Place,
    Priority,
    RetryPolicy,
    Spec,
    Standing,
    Status,
)
from gowork.leader._core.roster import Need
from gowork.leader._core.state import Settings, Worker
from gowork.leader._core.tasks import digest_of

IDS = st.sampled_from([f"t{number}" for number in range(12)])
NAMES = st.sampled_from(["w1", "w2", "w3"])
HANDLERS = st.sampled_from(["work", "other"])
QUEUES = st.sampled_from(["default", "mail"])
#: The queues that a worker names; none for all.
NAMED = st.sampled_from([(), (), (), (), ("mail",), ("default", "reports")])
NEEDS = st.sampled_from(
    [None, ("work", (), ""), ("other", (), "mail"), ("nobody's", (), ""), ("work", (("zone", "a"),), "")]
)
KEYS = st.sampled_from(["", "", "k1", "k2"])
UNIQUE = st.sampled_from(["", "", "u1", "u2"])
#: So small that most of what waits rests in the store.
SMALL = Settings(window=3, lane_page=4, lane_min=1, timers_max=8)


def test_every_change_can_be_applied():
    assert set(_APPLIERS) == set(get_args(ch.Change))


def _selects(spec: Spec, standing: Standing) -> bool:
    return True


def _by_seq(chosen: cmd.Chosen) -> int:
    return chosen.seq


def reporting(
    connection: int, fence: int, id: str, outcome: Outcome, *, by_columns: bool, after: tuple[str, ...] = ()
) -> cmd.ReceiveFrame:
    """A frame with one report. Only completions can be told by columns. With WAITING, the task waits for `after`."""
    if by_columns and outcome is Outcome.COMPLETED:
        columns = cmd.Completions([id], [fence], [0], [""], [b""], [""])
        return cmd.ReceiveFrame(connection, completions=[columns])
    continuation = cmd.Continuation(after, partial(_waiting_for, after)) if outcome is Outcome.WAITING else None
    report = cmd.Report(fence, id, outcome, retry_delay_ms=100, continuation=continuation)
    return cmd.ReceiveFrame(connection, [report])


def _waiting_for(after: tuple[str, ...], before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
    return (before, ()) if before.after == after else (replace(before, after=after), ("after",))


class Cluster(RuleBasedStateMachine):
    """Workers come, go and lie; tasks are submitted, granted, reported and cancelled."""

    #: Whether all changes are also applied one by one, to a copy of the state; see Core.
    compares = False
    #: Whether some workers take tasks of the queues alone that they name.
    names_queues = True
    #: Whether tasks that are submitted alone may come after others.
    comes_after = True
    #: The tasks that must not run twice.
    once: tuple[str, ...] = ("t0", "t1", "t2", "t3")
    bounds = SMALL
    #: How often what can be granted is granted and reported, until every task has ended.
    rounds = 16

    def __init__(self) -> None:
        super().__init__()
        # So small that rankings are made again, and news are dropped, within a run.
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(roster, "ENTRIES_EACH", 1)
        self.patch.setattr(roster, "ENTRIES_MORE", 1)
        self.patch.setattr(roster, "RANKINGS_MAX", 2)
        self.patch.setattr(roster, "RANKED_MAX", 1)
        self.core = Core(copy(self.bounds), compares=self.compares)
        self.fence = self.core.state.fence
        self.accepted: dict[tuple[str, int], int] = {}
        #: What was kept of the first content of each task that was changed: {id: digest}
        self.first_asked: dict[str, bytes] = {}
        #: Every grant that a worker was ever sent: (instance, id, fence).
        self.sent: list[tuple[str, str, int]] = []

    @rule(
        id=IDS,
        handler=HANDLERS,
        priority=st.sampled_from(Priority),
        attempts=st.integers(1, 3),
        delay=st.integers(0, 2),
        expiry=st.sampled_from([0, 0, 0, 3]),
        queue=QUEUES,
        key=KEYS,
        unique=UNIQUE,
        unique_for=st.sampled_from([0, 0, 2, 60]),
        after=st.one_of(st.just([]), st.just([]), st.lists(IDS, max_size=3, unique=True)),
        after_rule=st.sampled_from(AfterRule),
    )
    def submit(
        self,
        id: str,
        handler: str,
        priority: Priority,
        attempts: int,
        delay: int,
        expiry: int,
        queue: str,
        key: str,
        unique: str,
        unique_for: int,
        after: list[str],
        after_rule: AfterRule,
    ) -> None:
        new = spec(
            id,
            handler=handler,
            priority=priority,
            body=bytes(2 << 10) if id == "t3" else b"",
            retry=RetryPolicy(max_attempts=attempts, initial_delay_ms=500),
            run_in_ms=delay * 1000,
            expires_in_ms=expiry * 1000,
            queue=queue,
            key=key,
            unique=unique,
            unique_for_ms=unique_for * 1000,
            # Those that are there, and now and then one that is not.
            after=tuple(
                each
                for each in after
                if self.comes_after and each != id and (each in self.core.stored or len(after) == 3)
            ),
            rule=after_rule,
        )
        self.core.submit(replace(new, on_lost=OnLost.FAIL if id in self.once else None))

    @rule(
        queue=QUEUES,
        weight=st.integers(1, 3),
        limit=st.integers(0, 2),
        key_limit=st.integers(0, 2),
        rate=st.sampled_from([0.0, 0.5, 5.0]),
    )
    def configure(self, queue: str, weight: int, limit: int, key_limit: int, rate: float) -> None:
        self.core.do(cmd.ConfigureQueue(queue, weight, limit, key_limit, rate, 2))

    @rule(queue=QUEUES, paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        self.core.do(cmd.PauseQueue(queue, paused))

    @rule(id=IDS)
    def cancel(self, id: str) -> None:
        self.core.do(cmd.Cancel(id))

    @rule(id=IDS, otherwise=st.booleans())
    def retry(self, id: str, otherwise: bool = False) -> None:
        def other(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
            handler = "work" if before.lane.handler == "other" else "other"
            return replace(before, lane=before.lane._replace(handler=handler), body=before.body + b"?"), ("handler",)

        before = self.core.stored.get(id)
        answer = self.core.do(cmd.RetryTask(id, edit=other if otherwise else None)).answer
        if before is not None and before[2].status in (Status.ERROR, Status.CANCELLED) and answer is None:
            standing = self.core.standing(id)
            assert standing.status is Status.PENDING
            if otherwise:
                assert standing.edit is not None
                assert standing.edit.asked == self.first_asked.setdefault(id, digest_of(before[1].body))
        elif before is not None:
            assert self.core.stored[id] == before

    @rule(
        id=IDS,
        queue=QUEUES,
        priority=st.sampled_from(Priority),
        delay=st.sampled_from([None, None, 0, 2]),
        expiry=st.sampled_from([None, 0, 3]),
    )
    def update(self, id: str, queue: str, priority: Priority, delay: int | None, expiry: int | None) -> None:
        def edit(before: Spec, created_ms: int, now_ms: int) -> tuple[Spec, tuple[str, ...]]:
            key = before.lane
            after = replace(
                before,
                lane=lane_key(queue, priority, key.handler, key.selector, key.concurrency_key),
                run_at_ms=before.run_at_ms if delay is None else now_ms + 1000 * delay if delay else 0,
                expires_at_ms=before.expires_at_ms if expiry is None else now_ms + 1000 * expiry if expiry else 0,
            )
            return (replace(after, body=before.body + b"!"), ("queue",)) if after != before else (before, ())

        before = self.core.stored.get(id)
        answer = self.core.do(cmd.UpdateTask(id, edit, delay is not None)).answer
        if before is None or isinstance(answer, cmd.Refused):
            assert self.core.stored.get(id) == before
            return
        _, spec, standing = self.core.stored[id]
        assert (spec.lane.queue, spec.lane.priority) == (queue, priority)
        assert replace(standing, edit=None, not_before_ms=0) == replace(before[2], edit=None, not_before_ms=0)
        if standing.edit is not None:
            assert standing.edit.asked == self.first_asked.setdefault(id, digest_of(before[1].body))
        if delay is not None:
            assert standing.not_before_ms == (self.core.wall_ms + 1000 * delay if delay else 0)

    @rule(ids=st.lists(IDS, unique=True), again=st.booleans())
    def cancel_or_retry_several(self, ids: list[str], again: bool) -> None:
        chosen = sorted((cmd.Chosen(id, self.core.task(id).seq) for id in ids if id in self.core.stored), key=_by_seq)
        before = {id: standing for id, (_, _, standing) in self.core.stored.items()}
        if again:
            self.core.do(cmd.RetryTasks(chosen, _selects, 0))
        else:
            self.core.do(cmd.CancelTasks(chosen, _selects))
        for id, (_, _, standing) in self.core.stored.items():
            if before[id].status is Status.COMPLETED or id not in ids:
                assert standing == before[id]
            elif not again:
                assert standing.status > Status.RUNNING or standing.cancel_requested

    @rule(id=IDS, strict=st.booleans())
    def purge(self, id: str, strict: bool = False) -> None:
        before = self.core.stored.get(id)
        self.core.do(cmd.Purge([id], strict=strict))
        if id not in self.core.stored:
            self.first_asked.pop(id, None)
        assert (id in self.core.stored) is (before is not None and before[2].status < Status.COMPLETED)

    @rule(
        name=NAMES,
        generation=st.integers(1, 2),
        slots=st.integers(1, 3),
        buffer=st.integers(0, 3),
        keep=st.booleans(),
        proof=st.booleans(),
        queues=NAMED,
    )
    def connect(
        self,
        name: str,
        generation: int,
        slots: int,
        buffer: int,
        keep: bool,
        proof: bool,
        queues: tuple[str, ...] = (),
    ) -> None:
        instance = f"{name}-{generation}"
        ended = tuple(f"{other}-{number}" for other in ("w1", "w2") for number in (1, 2)) if proof else ()
        held = tuple(cmd.HeldTask(id, fence, False) for who, id, fence in self.sent if who == instance and keep)
        self.core.connect(
            name,
            instance=instance,
            slots=slots,
            credit=slots + buffer,
            handlers=("work", "other"),
            held=held,
            ended=ended,
            queues=queues if self.names_queues else (),
        )

    @rule(name=NAMES)
    def drain(self, name: str) -> None:
        self.core.do(cmd.DrainMember(name, 0))

    @precondition(lambda self: self.core.state.connections)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        self.core.do(cmd.CloseSession(data.draw(st.sampled_from(sorted(self.core.state.connections)))))

    @precondition(lambda self: self.core.state.connections and self.sent)
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), by_columns=st.booleans())
    def report(self, data: st.DataObject, outcome: Outcome, by_columns: bool) -> None:
        connection = data.draw(st.sampled_from(sorted(self.core.state.connections)))
        _, id, fence = data.draw(st.sampled_from(self.sent))
        if id not in self.core.stored:
            # It was removed since.
            return
        before = self.core.standing(id)
        worker = self.core.state.connections[connection]
        others = self._some_ids(data) if outcome is Outcome.WAITING else ()
        self.core.do(reporting(connection, fence, id, outcome, by_columns=by_columns, after=others))
        after = self.core.standing(id)
        rightful = before.status is Status.RUNNING and before.fence == fence and before.instance == worker.instance
        assert (after != before) is rightful
        if rightful and after.status is Status.COMPLETED:
            seq = self.core.task(id).seq
            self.accepted[id, seq] = self.accepted.get((id, seq), 0) + 1

    def _some_ids(self, data: st.DataObject) -> tuple[str, ...]:
        """Some tasks, each of which may be unknown, or wait for the one that waits for it."""
        return tuple(
            data.draw(st.lists(st.sampled_from([*sorted(self.core.stored), "nobody"]), max_size=2, unique=True))
        )

    @precondition(lambda self: any(worker.held for worker in self.core.state.connections.values()))
    @rule(data=st.data(), outcome=st.sampled_from(Outcome), by_columns=st.booleans())
    def report_what_is_held(self, data: st.DataObject, outcome: Outcome, by_columns: bool) -> None:
        """As report: of grants and connections by chance few fit each other."""
        held = [
            (connection, fence, id)
            for connection, worker in sorted(self.core.state.connections.items())
            for fence, id in worker.held.items()
        ]
        connection, fence, id = data.draw(st.sampled_from(held))
        others = self._some_ids(data) if outcome is Outcome.WAITING else ()
        self.core.do(reporting(connection, fence, id, outcome, by_columns=by_columns, after=others))
        task = self.core.task(id)
        assert task.standing.fence == fence
        assert task.standing.status is not Status.RUNNING
        if task.standing.status is Status.COMPLETED:
            self.accepted[id, task.seq] = self.accepted.get((id, task.seq), 0) + 1

    @precondition(lambda self: self.core.state.connections and self.sent)
    @rule(data=st.data(), state=st.sampled_from([b"one", b"two"]))
    def checkpoint(self, data: st.DataObject, state: bytes) -> None:
        connection = data.draw(st.sampled_from(sorted(self.core.state.connections)))
        instance, id, fence = data.draw(st.sampled_from(self.sent))
        before = self.core.stored.get(id)
        self.core.do(cmd.ReceiveFrame(connection, checkpoints=[cmd.Checkpoint(fence, id, state)]))
        if before is None:
            return
        rightful = before[2].status is Status.RUNNING and before[2].fence == fence
        if rightful and instance == self.core.state.connections[connection].instance:
            assert self.core.stored[id][2] == replace(before[2], checkpoint=state)
        else:
            assert self.core.stored[id] == before

    @invariant()
    def what_has_ended_hands_nothing_on(self) -> None:
        assert not any(
            standing.checkpoint for _, _, standing in self.core.stored.values() if standing.status >= Status.COMPLETED
        )

    @rule(data=st.data())
    def give_credit(self, data: st.DataObject) -> None:
        for connection, worker in list(self.core.state.connections.items()):
            self.core.do(cmd.ReceiveFrame(connection, credit=worker.granted + data.draw(st.integers(0, 3))))

    @rule()
    def dispatch(self) -> None:
        before = {worker.instance: worker.room for worker in self.core.state.connections.values()}
        left = {worker: (worker.room, worker.free) for worker in self.core.state.connections.values()}
        holders: list[tuple[int, Worker, LaneKey]] = []
        before_fence = self.fence
        rooms = {queue.name: queue.room_at(self.core.mono) for queue in self.core.state.queues}
        decision = self.core.do(cmd.Dispatch())
        starts: dict[str, int] = {}
        granted: list[Grant] = []
        for effect in decision.effects:
            assert isinstance(effect, GrantTasks)
            worker = self.core.state.connections[effect.connection]
            assert worker.drain_ms is None
            assert len(effect.grants) <= before[worker.instance]
            granted += effect.grants
            for grant in effect.grants:
                assert grant.fence > before_fence
                self.fence = max(grant.fence, self.fence)
                self.sent.append((worker.instance, grant.spec.id, grant.fence))
                holders.append((grant.fence, worker, grant.spec.lane))
                queue_name = grant.spec.lane.queue
                assert not worker.queues or queue_name in worker.queues
                starts[queue_name] = starts.get(queue_name, 0) + 1
        for _, worker, lane in sorted(holders, key=lambda holder: holder[0]):
            assert worker is self.best_of(left, (lane.handler, (), lane.queue))
            left[worker] = left[worker][0] - 1, left[worker][1] - 1
        assert all(number <= rooms[name] for name, number in starts.items())
        for queue in self.core.state.queues:
            limit = queue.settings.key_concurrency_limit
            newly = {key for key, running in queue.keys.items() if limit and running > limit}
            assert not newly & {
                grant.spec.lane.concurrency_key for grant in granted if grant.spec.lane.queue == queue.name
            }

    @staticmethod
    def best_of(left: dict[Worker, tuple[int, int]], need: Need | None) -> Worker | None:
        """The worker with the most free slots of those with room, looked for in the simplest way."""
        found = [
            (-free, worker.connection, worker)
            for worker, (room, free) in left.items()
            if room > 0 and (need is None or worker.can_run(*need))
        ]
        return min(found)[2] if found else None

    @rule(
        need=st.sampled_from(
            [None, ("work", (), ""), ("other", (), "mail"), ("nobody's", (), ""), ("work", (("zone", "a"),), "")]
        )
    )
    def the_roster_finds_the_worker_with_the_most_free_slots(self, need: Need | None) -> None:
        """A rule and no invariant, so that rankings fall behind."""
        state = self.core.state
        left = {worker: (worker.room, worker.free) for worker in state.connections.values()}
        assert state.roster.ranking(need).best() is self.best_of(left, need)

    @rule(seconds=st.sampled_from([0.1, 0.6, 1.5, 4.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.core.pass_time(seconds)

    @rule()
    def restart(self) -> None:
        self.core.restart()

    @invariant()
    def held_by_exactly_one(self) -> None:
        state = self.core.state
        held = {(fence, id) for worker in state.workers.values() for fence, id in worker.held.items()}
        running = {
            (standing.fence, id)
            for id, (_, _, standing) in self.core.stored.items()
            if standing.status is Status.RUNNING
        }
        assert held == running
        assert sum(len(worker.held) for worker in state.workers.values()) == len(running)

    @invariant()
    def pending_tasks_are_in_one_place(self) -> None:
        state = self.core.state
        lanes: dict[LaneKey, list[tuple[int, str]]] = {}
        places: Counter[Place | None] = Counter()
        for id, (seq, stored, standing) in self.core.stored.items():
            place = self.core.task(id).place
            places[place] += 1
            assert (place is None) is (standing.status is not Status.PENDING)
            if place is Place.WINDOW or place is Place.REST:
                # What is in no window is in the store alone, and no lane knows of what is on a timer.
                assert (id in state.tasks) is (place is Place.WINDOW)
                lanes.setdefault(stored.lane, []).append((seq, id))
            elif place is Place.TIMER or place is Place.BLOCKED:
                assert id not in state.tasks
                assert standing.not_before_ms
        assert set(places) <= {*Place, None}
        assert (
            places[Place.TIMER] + places[Place.BLOCKED]
            == state.queues.delayed
            == sum(queue.delayed for queue in state.queues)
        )
        assert places[Place.REST] == sum(lane.stored for lane in state.queues.every_lane())
        assert places[Place.WINDOW] == sum(lane.live for lane in state.queues.every_lane())
        assert {lane.key for lane in state.queues.every_lane() if len(lane)} == lanes.keys()
        for lane in state.queues.every_lane():
            expected = sorted(lanes.get(lane.key, ()))
            window = [(task.seq, task.spec.id) for task in lane]
            assert window == expected[: len(window)]
            assert len(window) == lane.live
            assert lane.stored == len(expected) - len(window)
            assert all(state.tasks[id].seq == seq for seq, id in window)
            if lane.horizon is None:
                assert len(window) == len(expected)

    @invariant()
    def counts_follow_from_standings(self) -> None:
        queues = self.core.state.queues
        assert queues.loaded == sum(lane.live for lane in queues.every_lane())
        for lane in queues.every_lane():
            assert lane.weight == sum(weight(task) for task in lane)
        assert queues.weight == sum(lane.weight for lane in queues.every_lane())
        assert queues.waiting == sum(len(lane) for lane in queues.every_lane())
        statuses = [standing.status for _, _, standing in self.core.stored.values()]
        assert self.core.state.finished_tasks == sum(status >= Status.COMPLETED for status in statuses)
        assert self.core.state.failed_tasks == statuses.count(Status.ERROR)
        assert queues.lanes == len(list(queues.every_lane()))
        for queue in queues:
            running = [
                spec.lane.concurrency_key
                for _, spec, standing in self.core.stored.values()
                if standing.status is Status.RUNNING and spec.lane.queue == queue.name
            ]
            assert queue.running == len(running)
            assert queue.keys == {key: running.count(key) for key in dict.fromkeys(running) if key}
            assert queue.loaded == sum(lane.live for lane in queue.lanes.values())

    @invariant()
    def a_changed_task_is_known_by_its_first_content(self) -> None:
        for id, digest in self.first_asked.items():
            edit = self.core.standing(id).edit
            assert edit is not None
            assert edit.asked == digest

    @invariant()
    def memory_holds_a_window(self) -> None:
        state = self.core.state
        running = sum(len(worker.held) for worker in state.workers.values())
        assert len(state.tasks) == state.queues.loaded + running

    @invariant()
    def at_most_one_completion_is_accepted(self) -> None:
        assert all(count == 1 for count in self.accepted.values())

    @invariant()
    def what_must_not_run_twice_waits_for_no_second_run_after_a_loss(self) -> None:
        for id in self.once:
            standing = self.core.stored[id][2] if id in self.core.stored else None
            if standing is None or standing.status is not Status.PENDING or standing.retried or not standing.attempts:
                continue
            last = standing.attempts[-1]
            reported = last.outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.SNOOZED, Outcome.WAITING)
            assert reported or last.reason == "the grant did not reach its worker"

    @invariant()
    def what_comes_after_others_waits_for_just_these(self) -> None:
        state, stored = self.core.state, self.core.stored
        dependents = state.dependents
        assert {id: (each.ids, each.rule, each.is_live) for id, each in dependents.by_id.items()} == {
            id: (fact.ids, fact.rule, not fact.is_cancelled) for id, fact in state.facts.of(AFTER).items()
        }
        live: Counter[str] = Counter()
        ended = 0
        for id, each in dependents.by_id.items():
            children = self._children_of(id)
            if children is not None:
                assert each.children is not None
                assert each.children.there == len(children)
                assert each.children.completed == children.count(Status.COMPLETED)
                assert each.children.failed == children.count(Status.ERROR)
                assert each.children.cancelled == children.count(Status.CANCELLED)
                ended += sum(status >= Status.COMPLETED for status in children) if each.is_live else 0
            statuses = [stored[up][2].status for up in each.ids]
            assert each.unfinished == sum(status < Status.COMPLETED for status in statuses)
            assert each.without == sum(status > Status.COMPLETED for status in statuses)
            standing = stored[id][2]
            assert each.is_live == (standing.status < Status.COMPLETED)
            live.update(each.ids if each.is_live else ())
            if self.core.task(id).place is Place.BLOCKED:
                assert each.verdict is Verdict.WAIT or id in dependents.undecided
        assert {up for up in live if dependents.keeps(up, 0)} == live.keys()
        assert dependents.kept == len(live) + ended
        assert dependents.edges == sum(len(each.ids) for each in dependents.by_id.values() if each.is_live)
        assert dependents.live == sum(each.is_live for each in dependents.by_id.values())
        blocked = {id for id in stored if self.core.task(id).place is Place.BLOCKED}
        assert blocked <= dependents.by_id.keys()

    def _children_of(self, id: str) -> list[Status] | None:
        """Returns where the children of a group stand; None: the task is no group, or has ended."""
        fact = self.core.state.facts.of(AFTER).get(id)
        if fact is None or fact.group is None:
            return None
        above = fact.group.above
        return [
            standing.status
            for seq, spec, standing in self.core.stored.values()
            if spec.id.rpartition("/")[0] == id and seq > above
        ]

    @invariant()
    def live_names_are_unique(self) -> None:
        names = [worker.name for worker in self.core.state.connections.values()]
        assert len(names) == len(set(names))

    @invariant()
    def the_next_leader_knows_who_drains(self) -> None:
        state = self.core.state
        draining = {worker.instance for worker in state.names.values() if worker.drain_ms is not None}
        assert set(state.facts.of(WORKER_DRAINS)) == draining
        assert {key.key for key in self.core.facts if key.kind == WORKER_DRAINS.name} == draining

    @invariant()
    def one_unfinished_task_of_a_key_has_it(self) -> None:
        """ONE-OF-A-KEY."""
        facts = self.core.state.facts.of(UNIQUE_KEYS)
        assert {key.key for key in self.core.facts if key.kind == UNIQUE_KEYS.name} == set(facts)
        unfinished = [
            (spec.unique_key, id)
            for id, (_, spec, standing) in self.core.stored.items()
            if spec.unique_key and standing.status < Status.COMPLETED
        ]
        assert sorted(unfinished) == sorted((key, fact.id) for key, fact in facts.items() if not fact.until_ms)
        assert all(fact.until_ms > self.core.wall_ms for fact in facts.values() if fact.until_ms)
        kept = {key: fact.until_ms for key, fact in facts.items() if fact.until_ms}
        assert self.core.state.kept_keys.keys == kept

    def teardown(self) -> None:
        """When faults stop, every task ends."""
        try:
            self.end()
        finally:
            self.patch.undo()

    def end(self) -> None:
        core = self.core
        core.pass_time(30)
        for connection in list(core.state.connections):
            core.do(cmd.CloseSession(connection))
        core.pass_time(30)
        for name in ("default", "mail"):
            core.do(cmd.ConfigureQueue(name, 1, 0, 0, 0.0, 0))
            core.do(cmd.PauseQueue(name, False))
        connection = core.connect("last", slots=100, credit=1000, handlers=("work", "other"))
        for _ in range(self.rounds):
            for ids in core.dispatch().values():
                for id in ids:
                    core.report(connection, id)
            core.do(cmd.ReceiveFrame(connection))
            core.pass_time(5)
            if all(standing.status >= Status.COMPLETED for _, _, standing in core.stored.values()):
                break
        assert all(standing.status >= Status.COMPLETED for _, _, standing in core.stored.values())
        assert not core.state.tasks


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
