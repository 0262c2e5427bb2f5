"""A core without a world: commands go in by method, decisions are applied at once.

Beside it a store in its simplest form, a dict, so that what rests there is paged in as the engine does.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import cache
from typing import Any, get_args
from unittest.mock import patch

from core_picture import picture

from gowork.leader._core import commands as cmd
from gowork.leader._core import dispatch
from gowork.leader._core.apply import adopt, apply, expect, forget, recall, take_in
from gowork.leader._core.callbacks import take_up
from gowork.leader._core.clock import ripe_ids, trim
from gowork.leader._core.continuing import STOPPED_A_BATCH_MAX
from gowork.leader._core.decide import decide
from gowork.leader._core.decision import Decision
from gowork.leader._core.effects import Effect, GrantTasks
from gowork.leader._core.freeing import DEPENDENTS_A_BATCH_MAX
from gowork.leader._core.kinds import AFTER, KINDS
from gowork.leader._core.model import (
    BLOCKED_MS,
    AfterRule,
    Brief,
    FactKey,
    Failure,
    Group,
    HandlerPolicy,
    LaneKey,
    Now,
    OnLost,
    Outcome,
    Plugin,
    Priority,
    Restored,
    RetryPolicy,
    Spec,
    Standing,
    Status,
    Task,
)
from gowork.leader._core.pending import Pending
from gowork.leader._core.runs import apply_all
from gowork.leader._core.schedules import Declared
from gowork.leader._core.state import Settings, State
from gowork.leader._core.step import take
from gowork.leader._core.ticking import looked_at, plan
from gowork.leader._core.timers import Timer, Timers
from gowork.leader._core.upstream import link
from gowork.leader._engine.loading import holders_of_keys, named, upstream_of

WALL_MS = 1_800_000_000_000


def granted_one_by_one(state: State, now: Now) -> Decision:
    """What `dispatch` decides when it takes no task together with the one before it."""
    with patch.object(dispatch._Turn, "_take_more", lambda *_: None):
        return dispatch.dispatch(state, now)


@cache
def lane(queue: str, priority: Priority, handler: str, selector: tuple[tuple[str, str], ...], key: str) -> LaneKey:
    """The key of a lane: one object for all of its tasks, as those have it that were submitted together."""
    return LaneKey(queue, priority, handler, selector, key)


def spec(
    id: str,
    *,
    handler: str = "work",
    priority: Priority = Priority.LOW,
    queue: str = "default",
    selector: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
    run_in_ms: int = 0,
    expires_in_ms: int = 0,
    retry: RetryPolicy | None = None,
    binary: bool = False,
    key: str = "",
    time_limit_ms: int = 0,
    unique: str = "",
    unique_for_ms: int = 0,
    after: tuple[str, ...] = (),
    rule: AfterRule = AfterRule.ALL_COMPLETED,
    group: Group | None = None,
) -> Spec:
    return Spec(
        id,
        lane(queue, priority, handler, selector, key),
        body or id.encode(),
        WALL_MS + run_in_ms if run_in_ms else 0,
        WALL_MS + expires_in_ms if expires_in_ms else 0,
        retry,
        (),
        binary,
        time_limit_ms=time_limit_ms,
        unique_key=unique,
        unique_for_ms=unique_for_ms,
        after=after,
        after_rule=rule,
        group=group,
    )


def weight(task: Task) -> int:
    """Returns how much of a window a task takes."""
    return 1 + len(task.spec.body) // 1024


def answer_of(command: type[cmd.Command[object]]) -> type:
    """What a command answers when it is not refused."""
    (answer,) = get_args(vars(command)["__orig_bases__"][0])
    assert isinstance(answer, type)
    return answer


class Core:
    """A state, a clock that stands still until it is moved, and what was decided last."""

    def __init__(self, settings: Settings | None = None, *, compares: bool = False) -> None:
        """Args:
        compares: whether all tasks are also granted, and all changes applied, one by one, which must come to the
            same.
        """
        self.compares = compares
        self.state = State(settings or Settings(), fence=1 << 40, next_seq=1)
        self.wall_ms = WALL_MS
        self.mono = 1000.0
        self.effects: list[Effect] = []
        #: What the last batch brought about.
        self.pending = Pending()
        #: What the store has: {id: (seq, spec, standing)}
        self.stored: dict[str, tuple[int, Spec, Standing]] = {}
        self.facts: dict[FactKey, bytes] = {}
        #: Ids of removed tasks.
        self.removed: list[str] = []
        self._connections = 0

    @property
    def now(self) -> Now:
        return Now(self.wall_ms, self.mono)

    def do(self, command: cmd.AnyCommand) -> Decision:
        """One batch of one command."""
        state = self.state
        self._page_in()
        state.agenda.plans = plan(state, self.wall_ms)
        in_hand = state.dependents.take_in_hand(DEPENDENTS_A_BATCH_MAX) if isinstance(command, cmd.Tick) else ()
        stopping = state.dependents.take_abandoned(STOPPED_A_BATCH_MAX) if isinstance(command, cmd.Tick) else ()
        wanted = (
            *named(command),
            *ripe_ids(state, self.wall_ms),
            *looked_at(state, state.agenda.plans),
            *in_hand,
            *stopping,
        )
        visiting = [id for id in wanted if id not in state.tasks]
        for id in visiting:
            if id in self.stored:
                state.tasks[id] = Task(*self.stored[id])
        for id in holders_of_keys(state, [command]):
            if id in self.stored and id not in state.tasks:
                visiting.append(id)
                state.tasks[id] = Task(*self.stored[id])
        purged = command.ids if isinstance(command, cmd.Purge) else upstream_of(command)
        state.briefs = {
            id: Brief(self.stored[id][0], id, self.stored[id][2].status, self.stored[id][2].finished_ms)
            for id in purged
            if id in self.stored and id not in state.tasks
        }
        granting = self.compares and isinstance(command, cmd.Dispatch)
        singly = granted_one_by_one(deepcopy(state), self.now) if granting else None
        decision = decide(state, command, self.now)
        if singly is not None:
            assert (decision.changes, decision.effects) == (singly.changes, singly.effects)
        assert isinstance(decision.answer, (answer_of(type(command)), cmd.Refused))
        one_by_one = deepcopy(state) if self.compares else None
        apply_all(state, decision.changes)
        if one_by_one is not None:
            for change in decision.changes:
                apply(one_by_one, change)
            assert picture(state) == picture(one_by_one)
        pending = self.pending = take(state)
        for id in pending.removed.values():
            del self.stored[id]
            self.removed.append(id)
        changed = {**pending.submitted, **pending.moved}
        for id, task in changed.items():
            self.stored[id] = (task.seq, task.spec, task.standing)
        for key, data in pending.facts.items():
            if data is None:
                self.facts.pop(key, None)
            else:
                self.facts[key] = data
        forget(state, [*changed, *visiting])
        self._page_in()
        self.effects += decision.effects
        return decision

    def _page_in(self) -> None:
        queues, settings = self.state.queues, self.state.settings
        for key in list(queues.hungry):
            del queues.hungry[key]
            lane = queues.lane(key)
            while (
                lane is not None
                and lane.horizon is not None
                and (wanted := queues.wanted(lane, settings.lane_page)) > 0
            ):
                following = [
                    Task(seq, spec, standing)
                    for seq, spec, standing in sorted(self.stored.values(), key=lambda row: row[0])
                    if spec.lane == key
                    and standing.status is Status.PENDING
                    and not standing.not_before_ms
                    and seq > lane.horizon
                ]
                # As many as the store gives for this weight.
                page: list[Task] = []
                while following and (not page or sum(map(weight, page)) + weight(following[0]) <= wanted):
                    page.append(following.pop(0))
                take_in(self.state, key, page, complete=not page)
        for timers, of in ((self.state.delayed, _due), (self.state.expiring, _expiring)):
            while timers.hungry:
                entries = sorted(timer for row in self.stored.values() for timer in of(*row) if _after(timer, timers))
                timers.take_in(entries[: timers.page], complete=len(entries) <= timers.page)

    def restart(self, *, restored: bool = False) -> None:
        """A new leader knows what the store has. `restored`: that store was just restored from a backup."""
        old = self.state
        fence = ((old.fence >> 40) + 1) << 40
        came = Restored(old.next_seq, fence) if restored else old.restored
        self.state = State(old.settings, fence=fence, next_seq=old.next_seq, restored=came)
        for kind in KINDS:
            for key, data in sorted(self.facts.items()):
                if key.kind == kind.name:
                    recall(self.state, kind, key.key, kind.decode(data), self.now)
        for row in sorted(self.stored.values(), key=lambda row: row[0]):
            if row[2].status is Status.RUNNING:
                adopt(self.state, Task(*row))
        lanes: dict[LaneKey, int] = {}
        for _, spec, standing in self.stored.values():
            self.state.finished_tasks += standing.status >= Status.COMPLETED
            self.state.failed_tasks += standing.status is Status.ERROR
            if standing.status is Status.PENDING:
                if standing.not_before_ms:
                    self.state.queues.delay(spec.lane.queue)
                else:
                    lanes[spec.lane] = lanes.get(spec.lane, 0) + 1
        for lane, tasks in lanes.items():
            self.state.queues.expect(lane, tasks)
        self.state.delayed.expect()
        self.state.expiring.expect()
        link(self.state, lambda id: self.stored[id][2].status if id in self.stored else None, self._children())
        for change in take_up(self.state, self.now).changes:
            apply(self.state, change)
        expect(self.state, self.mono + self.state.settings.lease)
        self._page_in()

    def _children(self) -> dict[str, Counter[Status]]:
        """Returns how many children each group has in the store."""
        groups = {id: fact.group for id, fact in self.state.facts.of(AFTER).items() if fact.group is not None}
        return {
            id: Counter(
                standing.status
                for seq, spec, standing in self.stored.values()
                if spec.id.rpartition("/")[0] == id and seq > group.above
            )
            for id, group in groups.items()
        }

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ms += int(seconds * 1000)
        self.tick()

    def tick(self) -> None:
        while True:
            self.do(cmd.Tick(self.wall_ms))
            trim(self.state, self.wall_ms)
            self._page_in()
            next_ms = self.state.agenda.next_ms()
            if (
                not ripe_ids(self.state, self.wall_ms)
                and (next_ms is None or next_ms > self.wall_ms)
                and not self.state.dependents.undecided
                and not self.state.dependents.abandoned
            ):
                return

    def submit(self, *specs: Spec) -> cmd.Submitted | cmd.Refused:
        answer = self.do(cmd.Submit(specs)).answer
        assert isinstance(answer, cmd.Submitted | cmd.Refused)
        return answer

    def connect(
        self,
        name: str = "w1",
        *,
        instance: str = "",
        slots: int = 4,
        credit: int | None = None,
        handlers: tuple[str, ...] = ("work",),
        default: str = "",
        labels: dict[str, str] | None = None,
        held: tuple[cmd.HeldTask, ...] = (),
        retry: RetryPolicy | None = None,
        ended: tuple[str, ...] = (),
        form: str = "",
        plugin: Plugin | None = None,
        queues: tuple[str, ...] = (),
        on_lost: OnLost | None = None,
        schedules: tuple[Declared, ...] = (),
    ) -> int:
        self._connections += 1
        connection = self._connections
        policies = tuple(
            HandlerPolicy(handler, handler == default, retry, form, plugin, on_lost=on_lost) for handler in handlers
        )
        self.do(
            cmd.OpenSession(
                connection,
                name,
                instance or f"{name}-1",
                slots,
                policies,
                labels or {},
                "0.1.0",
                held,
                (),
                "peer",
                ended,
                frozenset(queues),
                schedules,
            )
        )
        self.do(cmd.ReceiveFrame(connection, credit=slots if credit is None else credit))
        return connection

    def dispatch(self) -> dict[int, list[str]]:
        """The ids granted, by connection, in the order of the grants."""
        decision = self.do(cmd.Dispatch())
        return {
            effect.connection: [grant.spec.id for grant in effect.grants]
            for effect in decision.effects
            if isinstance(effect, GrantTasks)
        }

    def report(self, connection: int, id: str, outcome: Outcome = Outcome.COMPLETED, **fields: Any) -> Decision:
        fence = fields.pop("fence", self.standing(id).fence)
        report = cmd.Report(fence, id, outcome, **fields)
        return self.do(cmd.ReceiveFrame(connection, [report]))

    def standing(self, id: str) -> Standing:
        return self.stored[id][2]

    def failure(self, id: str) -> Failure:
        """Why the task failed, which it must have."""
        failure = self.standing(id).failure
        assert failure is not None
        return failure

    def refusal(self, command: cmd.AnyCommand) -> cmd.Refused:
        """Why this command is refused, which it must be."""
        answer = self.do(command).answer
        assert isinstance(answer, cmd.Refused)
        return answer

    def task(self, id: str) -> Task:
        return self.state.tasks.get(id) or Task(*self.stored[id])

    def status(self, id: str) -> Status:
        return self.standing(id).status

    def take_effects(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken


def _due(seq: int, spec: Spec, standing: Standing) -> list[Timer]:
    delayed = standing.status is Status.PENDING and 0 < standing.not_before_ms < BLOCKED_MS
    return [(standing.not_before_ms, seq, spec.id)] if delayed else []


def _expiring(seq: int, spec: Spec, standing: Standing) -> list[Timer]:
    expires = standing.status is Status.PENDING and spec.expires_at_ms
    return [(spec.expires_at_ms, seq, spec.id)] if expires else []


def _after(timer: Timer, timers: Timers) -> bool:
    return timers.horizon is None or timer[:2] > timers.horizon
