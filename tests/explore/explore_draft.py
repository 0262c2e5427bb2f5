"""A state that is being changed by one thing that happens. The checkers look at each change."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import explore_checks as checks
from explore_checks import Violation
from explore_local import Step, Told
from explore_process import Effect, Word

from gowork.leader.log._etcd import etcd_pb2 as pb

if TYPE_CHECKING:
    from explore_world import World


class Mode(enum.IntEnum):
    """How a machine is."""

    USUAL = 0
    PAUSED = 1
    CUT = 2


#: What becomes of a call: nothing is wrong; it may fail, because its time is over; it can only fail. Higher numbers: it
#: was answered, and the answer, which has this number less ANSWERED, is on its way.
SOUND, OVERDUE, DEAD, ANSWERED = 0, 1, 2, 3


class Machine(NamedTuple):
    """A machine, as a part of a state."""

    #: Its process.
    local: int
    #: What each of its streams has told: the revision from which on it goes on.
    told: tuple[int, ...]
    #: What becomes of each of its calls.
    calls: tuple[int, ...]
    mode: int
    #: Whether it confirms (0: no), and whether what it asks has been true since it asked (1: no, 2: yes).
    confirming: int
    #: The leadership that it confirms.
    token: int


class State(NamedTuple):
    """All that decides what can happen. All numbers are of things that World keeps."""

    etcd: int
    machines: tuple[Machine, Machine]
    #: The requests that nobody waits for, and that may yet arrive.
    floating: tuple[int, ...]
    faults_left: int
    past: int


#: What is true later if it is now.
_LASTING = {"read", "acknowledged", "confirmed"}

NOBODY = Machine(-1, (), (), Mode.USUAL, 0, 0)


class Draft:
    """A state that is being changed.

    Args:
        world: what it is in.
        state: how it is before.
    """

    def __init__(self, world: World, state: State) -> None:
        self._world, self._etcds, self._locals = world, world.etcds, world.locals
        self.etcd, self.past, self.faults_left = state.etcd, state.past, state.faults_left
        self.machines = list(state.machines)
        self.floating = list(state.floating)
        #: Whether a checker has looked at what may change later.
        self.is_checked = False

    def state(self) -> State:
        """Returns the state after the change. What makes no difference is left out."""
        self._forget_leases()
        floating = [request for request in self.floating if not self._etcds.is_hopeless(self.etcd, request)]
        one, other = (self._world.seeing(self.etcd, machine) for machine in self.machines)
        return State(self.etcd, (one, other), tuple(sorted(floating)), self.faults_left, self.past)

    def start(self, place: int, store: int) -> None:
        """Starts a process on a store."""
        self.machines[place] = NOBODY
        self._apply(place, self._locals.birth(store))

    def serve(self, place: int, number: int, *, slowly: bool = False) -> None:
        """Has etcd do what a call asks. The answer comes at once, unless nobody can hear it."""
        machine = self.machines[place]
        request = self._locals[machine.local].requests[number]
        answer = self._do(self._with_lease(request))
        if machine.mode == Mode.PAUSED:
            self._set_calls(place, {number: ANSWERED + answer})
        else:
            self.faults_left -= slowly
            self.tell(place, (Word.SLOW if slowly else Word.ANSWER, number, answer))

    def fail(self, place: int, number: int) -> None:
        """Has a call get no answer. If it can still arrive, it may arrive at any later time."""
        machine = self.machines[place]
        local = self._locals[machine.local]
        if machine.calls[number] in (SOUND, OVERDUE) and local.writes[number]:
            self.floating.append(local.requests[number])
        self.tell(place, (Word.FAIL, number, 0))

    def doubt(self, place: int, number: int) -> None:
        self.faults_left -= 1
        self.fail(place, number)

    def refuse(self, place: int, number: int) -> None:
        """Has etcd refuse a call, because it is full."""
        self.faults_left -= 1
        self.tell(place, (Word.ANSWER, number, self._etcds.full))

    def next_told(self, place: int, number: int) -> None:
        """Has a watch tell the next change."""
        machine = self.machines[place]
        watch = self._locals[machine.local].streams[number]
        told = self._etcds.next_told(self.etcd, watch.key, watch.end, machine.told[number])
        assert told is not None
        answer, then = told
        revisions = list(machine.told)
        revisions[number] = then
        self.machines[place] = machine._replace(told=tuple(revisions))
        self.tell(place, (Word.TELL, number, answer))

    def break_watch(self, place: int, number: int) -> None:
        self.faults_left -= 1
        self.tell(place, (Word.BREAK, number, 0))

    def crash(self, place: int) -> None:
        """Ends a process, and starts it again. What it has sent may still arrive."""
        self.faults_left -= 1
        self._send_off(place)
        self.start(place, self._locals[self.machines[place].local].store)

    def cut(self, place: int) -> None:
        """Has nothing get through any more. What was sent before may still arrive."""
        self.faults_left -= 1
        self._send_off(place)
        self._set_calls(place, dict.fromkeys(self._waiting(place), DEAD))
        self.set_mode(place, Mode.CUT)

    def reach_again(self, place: int, way: tuple[Told, ...]) -> None:
        """Ends a cut, in which this was told to the process."""
        for told in way:
            self.tell(place, told)
        self.set_mode(place, Mode.USUAL)

    def pause(self, place: int) -> None:
        self.faults_left -= 1
        self.set_mode(place, Mode.PAUSED)

    def go_on(self, place: int) -> None:
        """Ends a pause. Its lease is over, and the time of each call, too; but an answer may have come before."""
        self._set_calls(place, dict.fromkeys(self._waiting(place), OVERDUE))
        self.set_mode(place, Mode.USUAL)
        self.tell(place, (Word.LONG, 0, 0))

    def set_mode(self, place: int, mode: Mode) -> None:
        self.machines[place] = self.machines[place]._replace(mode=mode)

    def step_down(self, place: int) -> None:
        self.faults_left -= 1
        self.tell(place, (Word.STEP_DOWN, 0, 0))

    def expire(self, lease: int) -> None:
        self.faults_left -= 1
        self.end_lease(lease)

    def end_lease(self, lease: int) -> None:
        """Ends a lease in etcd."""
        self._change(self._etcds.end_lease(self.etcd, lease))

    def arrive(self, request: int) -> None:
        """Has a request arrive that nobody waits for."""
        self.floating.remove(request)
        self._do(request)

    def copy(self, place: int) -> None:
        """Gives a process a copy of the other one's store."""
        self.tell(place, (Word.COPY, 0, self._locals[self.machines[1 - place].local].store))

    def tell(self, place: int, told: Told) -> None:
        """Tells a process something."""
        self._apply(place, self._locals.step(self.machines[place].local, told))

    def _apply(self, place: int, step: Step) -> None:
        machine, after = self.machines[place], self._locals[step.after]
        new = DEAD if machine.mode == Mode.CUT else SOUND
        for before, request in step.abandoned:
            becomes = machine.calls[before] if before >= 0 else new
            if becomes in (SOUND, OVERDUE) and self._etcds.writes(request):
                self.floating.append(request)
        now = self._etcds[self.etcd].revision + 1
        is_changed = machine.local < 0 or after.store != self._locals[machine.local].store
        self.machines[place] = machine._replace(
            local=step.after,
            calls=tuple(machine.calls[before] if before >= 0 else new for before in step.calls),
            told=tuple(
                machine.told[before] if before >= 0 else start or now
                for before, start in zip(step.streams, step.starts, strict=True)
            ),
        )
        for effect in step.effects:
            self._check(place, effect)
        if not after.leads:
            self.machines[place] = self.machines[place]._replace(confirming=0, token=0)
        if is_changed:
            checks.check_store(self._world.pasts[self.past], self._locals.stores[after.store])

    def _check(self, place: int, effect: Effect) -> None:
        kind, number, digest = effect
        self.is_checked = self.is_checked or kind not in _LASTING
        past, etcd, machine = self._world.pasts[self.past], self._etcds[self.etcd], self.machines[place]
        match kind:
            case "acknowledged":
                past = checks.check_acknowledged(past, number, digest)
            case "refused":
                past = checks.check_refused(past, number, digest)
            case "read":
                checks.check_read(past, number, digest)
            case "asks":
                # It stays as it is, because a leadership that is over never comes back.
                self.machines[place] = machine._replace(confirming=1 + (etcd.token == number), token=number)
            case "confirmed":
                if machine.confirming != 2:
                    raise Violation(checks.CONFIRMED, f"the leadership {machine.token} was over before it asked")
                self.machines[place] = machine._replace(confirming=0, token=0)
            case "lags":
                if etcd.token == number:
                    raise Violation(checks.CAN_APPLY, "who leads needs a copy of the other store")
            case "own lease":
                raise Violation(checks.OWN_LEASE, f"it ends {number} ms later than etcd's")
            case _:
                raise Violation(checks.NO_FAILURE, kind)
        self.past = self._world.pasts.of(past, past)

    def _do(self, request: int) -> int:
        """Has etcd do something, and returns the number of its answer."""
        after, answer = self._etcds.do(self.etcd, request)
        self._change(after)
        return answer

    def _change(self, after: int) -> None:
        if after == self.etcd:
            return
        before, etcd = self._etcds[self.etcd], self._etcds[after]
        self.etcd = after
        past = self._world.pasts[self.past]
        if etcd.revision != before.revision:
            past = checks.check_change(past, before, etcd)
            self.past = self._world.pasts.of(past, past)
            positions = [self._world.content(machine).position for machine in self.machines]
            checks.check_kept(past, etcd, max(position.index for position in positions if position is not None))

    def _with_lease(self, request: int) -> int:
        """Returns the request; one for a lease with a number that nobody uses, the same in each state like this one."""
        asked = self._etcds.requests[request]
        if not isinstance(asked, pb.LeaseGrantRequest):
            return request
        used = {*self._etcds[self.etcd].leases, *self._named(self._etcds.leases_of)}
        for machine in self.machines:
            used |= self._locals[machine.local].leases
        number = next(number for number in range(1, len(used) + 2) if number not in used)
        return self._etcds.request(pb.LeaseGrantRequest(TTL=asked.TTL, ID=number))

    def _forget_leases(self) -> None:
        """Ends the leases that nobody can use any more."""
        idle = self._etcds[self.etcd].idle_leases
        if not idle:
            return
        used = set(self._named(self._etcds.put_on))
        for machine in self.machines:
            used |= self._locals[machine.local].fresh
        for lease in idle - used:
            self.etcd = self._etcds.end_lease(self.etcd, lease)

    def _named(self, names: Callable[[int], Iterable[int]]) -> Iterator[int]:
        """Yields the leases that requests name that are under way."""
        for request in self.floating:
            yield from names(request)
        for machine in self.machines:
            for request in self._locals[machine.local].requests:
                yield from names(request)

    def _waiting(self, place: int) -> list[int]:
        """Returns the calls of a process that etcd has not done."""
        return [number for number, becomes in enumerate(self.machines[place].calls) if becomes in (SOUND, OVERDUE)]

    def _send_off(self, place: int) -> None:
        """Has what a process has sent arrive at any later time."""
        local = self._locals[self.machines[place].local]
        self.floating += [local.requests[number] for number in self._waiting(place) if local.writes[number]]

    def _set_calls(self, place: int, becomes: dict[int, int]) -> None:
        machine = self.machines[place]
        calls = tuple(becomes.get(number, before) for number, before in enumerate(machine.calls))
        self.machines[place] = machine._replace(calls=calls)
