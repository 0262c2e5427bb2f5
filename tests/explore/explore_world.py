"""Two machines, one etcd, and all that can happen next between them.

What a process does between two words from outside happens at once, because nobody else can see it. So only calls to
etcd, what watches tell, timers and faults are choices.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import explore_checks as checks
from explore_checks import Past
from explore_digest import Outside
from explore_draft import ANSWERED, DEAD, NOBODY, OVERDUE, SOUND, Draft, Machine, Mode, State
from explore_etcd import Etcds, StillClock
from explore_life import PREFIX, Life
from explore_local import Local, Locals
from explore_numbers import Numbers
from explore_process import Word
from memory_store import Content
from sim_etcd import SimEtcd
from sim_etcd_calls import SimEtcdClient, WatchCall

from gowork.leader._core.model import Position
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Keeping
from gowork.leader.log.entries import NO_HASH
from gowork.leader.log.etcd import EtcdLog
from gowork.leader.log.holding import OwnLease
from gowork.leader.log.protocol import Generation

FIRST_GENERATION = Generation("first")
OTHER_GENERATION = Generation("other")


class Fault(enum.Enum):
    """What may go wrong."""

    #: A process ends, and is started again. What it has sent arrives at any later time, or never.
    CRASH = "crash"
    #: A process can't reach etcd for a while, short or long.
    CUT = "cut"
    #: A process stands still for longer than its lease. What it has sent arrives meanwhile, or later, or never.
    PAUSE = "pause"
    #: A write gets no answer. It is done at any later time, or never.
    DOUBT = "doubt"
    #: The lease ends in etcd, while its keepalives are still answered.
    EXPIRE = "expire"
    #: A watch breaks.
    BREAK = "break"
    #: etcd has no room for a write.
    FULL = "full"
    #: A lease is granted, and the answer is slow.
    SLOW = "slow"
    #: An operator has a leader step down.
    STEP_DOWN = "step-down"
    #: Somebody begins another generation of the log, before it has entries.
    BEGIN = "begin"


#: The faults that every exploration has, unless it says which ones.
USUAL = (Fault.CRASH, Fault.CUT, Fault.PAUSE, Fault.DOUBT)


#: What happens: its name, and which machine and which call or stream it happens to.
Choice = tuple[str, int, int]
#: A choice, and what makes it happen.
Happening = tuple[Choice, Callable[[Draft], None]]


class World(Outside):
    """All of it.

    Args:
        batches: how many batches are committed.
        faults: what may go wrong.
        faults_max: how often something may go wrong.
        make_log: makes the log of each process.
        plant: changes requests, where a bug is planted.
        prunes: whether leaders prune.
        in_order: whether after the last fault all that one process waits for comes in one order, its calls first. Both
            processes still go on in all orders.
        reduces: whether states are left out that can make no difference.
    """

    def __init__(
        self,
        batches: int,
        faults: Iterable[Fault] = USUAL,
        faults_max: int = 0,
        *,
        make_log: Callable[[SimEtcdClient, str], EtcdLog] = EtcdLog,
        plant: Callable[[Any], Any] = lambda request: request,
        prunes: bool = True,
        in_order: bool = False,
        reduces: bool = True,
    ) -> None:
        self.batches, self.faults, self.faults_max, self.in_order = batches, frozenset(faults), faults_max, in_order
        self.reduces = reduces
        self.etcds = Etcds(plant)
        self.locals = Locals(self.etcds, Life(batches, make_log, prunes=prunes))
        self.pasts: Numbers[Past] = Numbers()

    def first(self) -> State:
        """Returns the state in which the log has begun, and both machines start."""
        etcd = self._begun(SimEtcd(StillClock()), FIRST_GENERATION)
        content = Content()
        content.identity = content.store_id = ""
        content.position = Position(FIRST_GENERATION.id, FIRST_GENERATION.base, NO_HASH)
        draft = Draft(self, State(etcd, (NOBODY, NOBODY), (), self.faults_max, self.pasts.of(Past(), Past())))
        for place in (0, 1):
            draft.start(place, self.locals.store(content))
        return draft.state()

    def first_with_a_leader(self) -> State:
        """Returns the first state in which a machine leads, before anything of the other one has happened."""
        state = self.first()
        start = state.machines[0]
        while not any(self.locals[machine.local].leads for machine in state.machines):
            place = 0 if state.machines[1] == start else 1
            _, happen = next(self.usual(state, place))
            draft = Draft(self, state)
            happen(draft)
            state = draft.state()
        return state

    def check_end(self, state: State) -> None:
        """Looks at a state where nothing must happen any more. Faults, and late requests, need not happen."""
        positions = [self.content(machine).position for machine in state.machines]
        generation = self.etcds[state.etcd].generation_id
        if generation == FIRST_GENERATION.id:
            indexes = [position.index for position in positions if position is not None]
            checks.check_end(self.pasts[state.past], indexes, self.batches)

    def content(self, machine: Machine) -> Content:
        """Returns what the store of a machine has."""
        return self.locals.stores[self.locals[machine.local].store]

    def words(self, choice: Choice) -> str:
        """Returns the name of what has happened, for people."""
        name, place, number = choice
        if name == "arrives late":
            return f"{type(self.etcds.requests[number]).__name__} arrives late"
        return f"{'AB'[place]}: {name} {number}" if place >= 0 else f"{name} {number}"

    def face(self, machine: Machine) -> Hashable:
        """Returns all of a machine that makes a difference to what can happen to the other one, or to etcd."""
        local = self.locals[machine.local]
        named, put_on = set(local.leases), set(local.fresh)
        for request in local.requests:
            named.update(self.etcds.leases_of(request))
            put_on.update(self.etcds.put_on(request))
        keeps = local.safe if machine.mode == Mode.USUAL else frozenset[int]()
        return local.store, frozenset(named), frozenset(put_on), keeps, local.wants_copy

    def kept(self, etcd: int, machine: Machine) -> frozenset[int]:
        """Returns the leases of etcd that can't end because of this machine."""
        safe = self.locals[machine.local].safe
        return safe.intersection(self.etcds[etcd].leases) if machine.mode == Mode.USUAL else frozenset()

    def seeing(self, etcd: int, machine: Machine) -> Machine:
        """Returns a machine when etcd is in this state, each of its streams at the next change that it has to tell."""
        streams = self.locals[machine.local].streams
        told = (
            self.etcds.next_change(etcd, watch.key, watch.end, revision)
            for watch, revision in zip(streams, machine.told, strict=True)
        )
        return machine._replace(told=tuple(told))

    def usual(self, state: State, place: int) -> Iterator[Happening]:
        """Yields what happens to a machine without a fault."""
        machine = state.machines[place]
        local = self.locals[machine.local]
        match machine.mode:
            case Mode.CUT:
                for number, way in enumerate(self.locals.while_cut_off(machine.local)):
                    yield ("is reached again", place, number), _call(Draft.reach_again, place, way)
            case Mode.PAUSED:
                yield ("goes on", place, 0), _call(Draft.go_on, place)
                for number, becomes in enumerate(machine.calls):
                    if becomes in (SOUND, OVERDUE):
                        yield ("is done", place, number), _call(Draft.serve, place, number)
            case _ if self.in_order and not state.faults_left:
                first = next((list(each) for each in self._waited_for(state, place, machine, local)), [])
                yield from first
            case _:
                for each in self._waited_for(state, place, machine, local):
                    yield from each

    def _waited_for(self, state: State, place: int, machine: Machine, local: Local) -> Iterator[Iterable[Happening]]:
        """Yields what can be told to a process: for each thing that it waits for, what may come of it."""
        for number, becomes in enumerate(machine.calls):
            yield self._become_of(place, number, becomes)
        for number, watch in enumerate(local.streams):
            if watch.is_read and self.etcds.next_told(state.etcd, watch.key, watch.end, machine.told[number]):
                yield [(("is told", place, number), _call(Draft.next_told, place, number))]
        if local.wants_copy and self._has_copy(state, place):
            yield [(("copies", place, 0), _call(Draft.copy, place))]
        if local.has_timers:
            yield [(("waits", place, 0), _call(Draft.tell, place, (Word.TIMER, 0, 0)))]

    def _become_of(self, place: int, number: int, becomes: int) -> Iterator[Happening]:
        """Yields what may come of a call."""
        if becomes in (OVERDUE, DEAD):
            yield ("fails", place, number), _call(Draft.fail, place, number)
        if becomes in (SOUND, OVERDUE):
            yield ("is done", place, number), _call(Draft.serve, place, number)
        if becomes >= ANSWERED:
            answer = becomes - ANSWERED
            yield ("is answered", place, number), _call(Draft.tell, place, (Word.ANSWER, number, answer))

    def faulty(self, state: State, place: int) -> Iterator[Happening]:
        """Yields what goes wrong with a machine."""
        faults, machine = self.faults, state.machines[place]
        if not state.faults_left or machine.mode != Mode.USUAL:
            return
        local = self.locals[machine.local]
        if Fault.CRASH in faults:
            yield ("crashes", place, 0), _call(Draft.crash, place)
        if Fault.CUT in faults:
            yield from self._put_off(state, place, ("is cut off", place, 0), _call(Draft.cut, place))
        if Fault.PAUSE in faults and local.leases:
            yield from self._put_off(state, place, ("stands still", place, 0), _call(Draft.pause, place))
        if Fault.STEP_DOWN in faults and local.leads:
            yield ("is told to step down", place, 0), _call(Draft.step_down, place)
        if Fault.EXPIRE in faults and local.keeps in self.etcds[state.etcd].leases:
            yield ("has its lease end", place, 0), _call(Draft.expire, local.keeps)
        for number, becomes in enumerate(machine.calls):
            if becomes != SOUND:
                continue
            request = self.etcds.requests[local.requests[number]]
            if Fault.DOUBT in faults and local.writes[number]:
                yield ("is in doubt", place, number), _call(Draft.doubt, place, number)
            if Fault.FULL in faults and isinstance(request, pb.TxnRequest) and local.writes[number]:
                yield ("finds etcd full", place, number), _call(Draft.refuse, place, number)
            if Fault.SLOW in faults and isinstance(request, pb.LeaseGrantRequest):
                yield ("is slow", place, number), _call(Draft.serve, place, number, slowly=True)
        if Fault.BREAK in faults:
            for number, watch in enumerate(local.streams):
                if watch.is_read:
                    yield ("breaks", place, number), _call(Draft.break_watch, place, number)

    def _put_off(self, state: State, place: int, choice: Choice, begin: Callable[[Draft], None]) -> Iterator[Happening]:
        """Yields the beginning of a fault together with the first thing that comes of it.

        Nobody sees that a machine is cut off or stands still before its lease ends, or one of its calls is done without
        it, or it goes on. So the beginning of the fault is put off until then.
        """
        if not self.reduces:
            yield choice, begin
            return
        name = choice[0]
        draft = Draft(self, state)
        begin(draft)
        begun = draft.state()
        local = self.locals[begun.machines[place].local]
        becomes = list(self.usual(begun, place))
        becomes += [each for each in self.ending(begun) if each[0][2] in local.safe]
        if begun.machines[place].mode == Mode.CUT:
            sent = {local.requests[each] for each, writes in enumerate(local.writes) if writes}
            becomes += [each for each in self.late(begun) if each[0][2] in sent and self._changes(begun, each[0][2])]
        for (then, _, which), happen in becomes:
            yield (f"{name} and {then}", place, which), _both(begin, happen)

    def _changes(self, state: State, request: int) -> bool:
        return self.etcds.do(state.etcd, request)[0] != state.etcd

    def ending(self, state: State) -> Iterator[Happening]:
        """Yields the leases that may end, because nobody keeps them."""
        kept = set[int]().union(*(self.kept(state.etcd, machine) for machine in state.machines))
        for lease in self.etcds[state.etcd].leases:
            if lease not in kept:
                yield ("a lease ends", -1, lease), _call(Draft.end_lease, lease)

    def late(self, state: State) -> Iterator[Happening]:
        """Yields what need not happen, and happens to neither machine."""
        for number, request in enumerate(state.floating):
            if number == 0 or request != state.floating[number - 1]:
                yield ("arrives late", -1, request), _call(Draft.arrive, request)
        if state.faults_left and Fault.BEGIN in self.faults and not self.pasts[state.past].log:
            yield ("another generation begins", -1, 0), self._begin_other

    def _has_copy(self, state: State, place: int) -> bool:
        other = self.content(state.machines[1 - place]).position
        return other is not None and other.index + 1 >= self.etcds[state.etcd].first

    def _begin_other(self, draft: Draft) -> None:
        draft.faults_left -= 1
        draft.etcd = self._begun(self.etcds[draft.etcd].sim.copy(), OTHER_GENERATION, FIRST_GENERATION.id)

    def _begun(self, sim: SimEtcd, generation: Generation, replaces: str | None = None) -> int:
        beginning = EtcdLog(SimEtcdClient(_Direct(sim)), PREFIX).begin(generation, replaces)
        try:
            beginning.send(None)
        except StopIteration:
            return self.etcds.add(sim)
        raise AssertionError("a call was not answered at once")


def _call(function: Callable[..., None], *arguments: Any, **named: Any) -> Callable[[Draft], None]:
    """Returns what has something happen to a draft."""
    return lambda draft: function(draft, *arguments, **named)


def _both(first: Callable[[Draft], None], second: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def happen(draft: Draft) -> None:
        first(draft)
        second(draft)

    return happen


class _Direct:
    """A link over which all calls are answered at once."""

    def __init__(self, etcd: SimEtcd) -> None:
        self._etcd = etcd

    def now(self) -> float:
        return 0.0

    async def call(self, request: Any, seconds: float) -> Any:
        return self._etcd.do(request)

    def watch(self) -> WatchCall:
        raise AssertionError

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:
        raise AssertionError
