"""The states that follow a state, looked up rather than done anew.

What happens to one machine depends on it, on etcd, on what is under way, and on little of the other machine: its store
and its leases. So what may happen to it is kept by these, and serves for all states of the other machine that look the
same from outside. Then only one thing happens to the other machine: etcd has more to tell it.

Most of what happens to a machine is seen by nobody else, because it changes neither etcd nor what the machine shows of
itself: a read is answered, a watch tells something, a timer fires. Such a thing is put off. It happens just before

- something that happens to the same machine and is seen, or
- a change of etcd after which it would not be the same, such as a read that would be answered otherwise. That is found
  out by doing it after the change as well; or
- the end, when nothing more happens to this machine.

What comes in between is no state. This leaves out states and no outcome. Take any order in which things happen, and in
it something that nobody else sees, followed by something that it does not depend on. The other way round, both machines
and etcd do the same. So the first of the two can be put off, again and again, until one of these three comes. Whatever
is put off is still done, and looked at by the checkers, wherever it may happen.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import NamedTuple

from explore_checks import Violation
from explore_draft import Draft, Machine, State
from explore_numbers import Numbers
from explore_world import Choice, Happening, World

#: A state is one number of these parts, and these are their bits. The machines come above the other parts.
_FAULTS, _PAST, _FLOATING, _ETCD, _MACHINE = 4, 22, 22, 24, 28
_FLOATING_AT = _FAULTS + _PAST
_ETCD_AT = _FLOATING_AT + _FLOATING
_ONE_AT = _ETCD_AT + _ETCD
_OTHER_AT = _ONE_AT + _MACHINE
_REST_MASK, _MACHINE_MASK = (1 << _ONE_AT) - 1, (1 << _MACHINE) - 1


class Move(NamedTuple):
    """What becomes of something that happens to a machine, or to neither; then `machine` is -1."""

    rest: int
    machine: int
    #: The state of etcd, if what happens to the other machine may change with it; -1: it can't.
    etcd: int


class _Moves(NamedTuple):
    moves: tuple[Move, ...]
    #: What the machine may be when nothing more must happen to it.
    ends: tuple[int, ...]


class _Steps(NamedTuple):
    """What may happen to a machine, one thing each."""

    must: bool
    #: What nobody else sees, and the machine after it.
    unseen: Mapping[tuple[Choice, int], None]
    seen: tuple[tuple[Choice, Move], ...]


class Following(NamedTuple):
    """What follows a state."""

    #: The states that follow.
    states: list[int]
    #: Those of them that follow only if the order is left; see explore_order.
    deviating: list[int]
    #: What the state may be when nothing must happen any more.
    ends: list[State]


class Successors:
    """Numbers states, and finds those that follow.

    Args:
        world: what they are in.
    """

    def __init__(self, world: World) -> None:
        assert world.faults_max < 1 << _FAULTS
        self._world = world
        self._machines: Numbers[Machine] = Numbers()
        self._floatings: Numbers[tuple[int, ...]] = Numbers()
        self._faces: Numbers[Hashable] = Numbers()
        #: For each machine the number of its face; see World.face.
        self._face_of: list[int] = []
        #: {the machine, the face of the other one, and the rest: what may happen}
        self._of_machine: dict[int, _Moves] = {}
        self._steps: dict[int, _Steps] = {}
        #: {(key of _of_machine, its rest and the face of the other one after a change): see _carried}
        self._carries: dict[tuple[int, int], tuple[int, ...]] = {}
        #: {both faces, and the rest: what may happen to neither machine}
        self._of_neither: dict[int, _Moves] = {}
        #: {the state of etcd, and a machine: the machine when etcd is in this state}
        self._seeing: dict[int, int] = {}

    def pack(self, state: State) -> int:
        """Returns the number of a state. Two states that differ only in which machine is which have the same."""
        one, other = (self._number(machine) for machine in state.machines)
        return packed(one, other, self._rest(state))

    def state(self, number: int) -> State:
        """Returns the state with a number."""
        return State(
            number >> _ETCD_AT & (1 << _ETCD) - 1,
            (self._machines[number >> _ONE_AT & _MACHINE_MASK], self._machines[number >> _OTHER_AT]),
            self._floatings[number >> _FLOATING_AT & (1 << _FLOATING) - 1],
            number & (1 << _FAULTS) - 1,
            number >> _FAULTS & (1 << _PAST) - 1,
        )

    def following(self, number: int) -> Following:
        """Returns what follows a state.

        Raises:
            Violation: a rule is broken on the way to one of them.
        """
        rest, one, other = parts(number)
        faces = self._face_of
        found: list[int] = []
        ends: list[tuple[int, ...]] = []
        for place, this, that in ((0, one, other), (1, other, one)) if one != other else ((0, one, other),):
            asked = faces[that] << _OTHER_AT | this << _ONE_AT | rest
            moves = self._of_machine.get(asked)
            if moves is None:
                moves = self._of_machine[asked] = self._moves_of(number, place)
            ends.append(moves.ends)
            for after, machine, etcd in moves.moves:
                for still in (that,) if etcd < 0 else self._carried(rest, that, this, after, machine):
                    if machine < still:
                        found.append(still << _OTHER_AT | machine << _ONE_AT | after)
                    else:
                        found.append(machine << _OTHER_AT | still << _ONE_AT | after)
        asked = faces[other] << _OTHER_AT | faces[one] << _ONE_AT | rest
        moves = self._of_neither.get(asked)
        if moves is None:
            moves = self._of_neither[asked] = self._moves_of_neither(number)
        for after, _, etcd in moves.moves:
            if etcd < 0:
                found.append(packed(one, other, after))
                continue
            ones = self._carried(rest, one, other, after, self._seen_by(etcd, other))
            others = self._carried(rest, other, one, after, self._seen_by(etcd, one))
            found += [packed(this, that, after) for this in ones for that in others]
        if ends[0] and ends[-1] and moves.ends:
            at_end = [self.state(that << _OTHER_AT | this << _ONE_AT | rest) for this in ends[0] for that in ends[-1]]
            return Following(found, [], at_end)
        return Following(found, [], [])

    def words(self, before: int, after: int) -> list[str]:
        """Returns what has led from a state to one that follows, for people."""
        state = self.state(before)
        for place in (0, 1):
            for way, move in self._runs(state, place):
                this, that = self._number(state.machines[place]), self._number(state.machines[1 - place])
                if move.etcd < 0:
                    carried = [that]
                else:
                    carried = list(self._carried(self._rest(state), that, this, move.rest, move.machine))
                if any(packed(move.machine, still, move.rest) == after for still in carried):
                    return [self._world.words(_at(place, choice)) for choice in way]
        for choice, happen in [*self._world.ending(state), *self._world.late(state)]:
            draft = Draft(self._world, state)
            happen(draft)
            if self._rest(draft.state()) == after & _REST_MASK:
                return [self._world.words(choice)]
        raise AssertionError("it does not follow")

    def _carried(self, rest: int, this: int, that: int, after: int, that_after: int) -> tuple[int, ...]:
        """Returns what a machine may be when something else has changed etcd.

        Args:
            rest, this, that: the state before, this machine, and the other one.
            after, that_after: the rest of the state and the other machine after the change.
        """
        faces = self._face_of
        asked = faces[that] << _OTHER_AT | this << _ONE_AT | rest, faces[that_after] << _ONE_AT | after
        found = self._carries.get(asked)
        if found is None:
            found = self._carries[asked] = tuple(dict.fromkeys(self._all_carried(rest, this, that, after, that_after)))
        return found

    def _all_carried(self, rest: int, this: int, that: int, after: int, that_after: int) -> Iterator[int]:
        etcd = after >> _ETCD_AT
        yield self._seen_by(etcd, this)
        if not self._world.reduces:
            return
        passed = {this}
        for machine in (left := [this]):
            later: Mapping[tuple[Choice, int], None] | None = None
            for choice, then in self._steps_of(rest, machine, that).unseen:
                if later is None:
                    later = self._later(after, self._seen_by(etcd, machine), that_after)
                then_seen = self._seen_by(etcd, then)
                if (choice, then_seen) not in later:
                    yield then_seen
                if then not in passed:
                    passed.add(then)
                    left.append(then)

    def _later(self, after: int, this: int, that: int) -> Mapping[tuple[Choice, int], None]:
        """Returns what may happen to a machine that nobody else sees; nothing if a rule is broken there."""
        try:
            return self._steps_of(after, this, that).unseen
        except Violation:
            # It is found again when a state is visited from which this may happen.
            return {}

    def _moves_of(self, number: int, place: int) -> _Moves:
        state = self.state(number)
        ends: list[int] = []
        moves = dict.fromkeys(move for _, move in self._runs(state, place, ends))
        return _Moves(tuple(moves), tuple(ends))

    def _moves_of_neither(self, number: int) -> _Moves:
        state = self.state(number)
        must = list(self._world.ending(state))
        moves = [self._done(state, each, -1)[1] for each in [*must, *self._world.late(state)]]
        return _Moves(tuple(dict.fromkeys(moves)), () if must else (-1,))

    def _runs(
        self, state: State, place: int, ends: list[int] | None = None
    ) -> Iterator[tuple[tuple[Choice, ...], Move]]:
        """Yields what may become of a machine: any number of things that nobody else sees, and then one more.

        Args:
            ends: takes what the machine may be when nothing more must happen to it.
        """
        rest, (this, that) = self._rest(state), (self._number(state.machines[each]) for each in (place, 1 - place))
        ways: dict[int, tuple[Choice, ...]] = {this: ()}
        for machine in (left := [this]):
            way = ways[machine]
            try:
                steps = self._steps_of(rest, machine, that)
            except Violation as violation:
                violation.last = [_at(place, choice) for choice in (*way, *violation.last)]
                raise
            for choice, move in steps.seen:
                yield (*way, choice), move
            for choice, after in steps.unseen:
                if after not in ways:
                    ways[after] = (*way, choice)
                    left.append(after)
            if ends is not None and not steps.must:
                ends.append(machine)

    def _steps_of(self, rest: int, this: int, that: int) -> _Steps:
        """Returns what may happen to a machine."""
        asked = self._face_of[that] << _OTHER_AT | this << _ONE_AT | rest
        steps = self._steps.get(asked)
        if steps is None:
            state = self.state(that << _OTHER_AT | this << _ONE_AT | rest)
            steps = self._steps[asked] = self._all_steps(state, rest, this)
        return steps

    def _all_steps(self, state: State, rest: int, this: int) -> _Steps:
        must = list(self._world.usual(state, 0))
        unseen: dict[tuple[Choice, int], None] = {}
        seen: dict[tuple[Choice, Move], None] = {}
        shown = self._shown(state, this)
        for each in [*must, *self._world.faulty(state, 0)]:
            choice = each[0]
            draft, move = self._done(state, each, 0)
            is_seen = draft.is_checked or move.rest != rest or self._shown(state, move.machine) != shown
            if self._world.reduces and not is_seen and choice[0] != "copies":
                unseen[choice, move.machine] = None
            else:
                seen[choice, move] = None
        return _Steps(bool(must), unseen, tuple(seen))

    def _shown(self, state: State, machine: int) -> Hashable:
        """Returns what the first machine of a state shows of itself, if it is this one.

        It shows which leases of etcd it keeps, and its store if the other one copies it. Which numbers are free for
        leases makes no difference, because they are only names, and no two leases have the same one.
        """
        this = self._machines[machine]
        is_copied = self._world.locals[state.machines[1].local].wants_copy
        store = self._world.locals[this.local].store if is_copied else -1
        return self._world.kept(state.etcd, this), self._world.locals[this.local].wants_copy, store

    def _done(self, state: State, happening: Happening, place: int) -> tuple[Draft, Move]:
        choice, happen = happening
        draft = Draft(self._world, state)
        try:
            happen(draft)
        except Violation as violation:
            violation.last = [choice]
            raise
        after = draft.state()
        machine = self._number(after.machines[place]) if place >= 0 else -1
        is_changed = after.etcd != state.etcd
        if self._world.in_order and after.faults_left != state.faults_left:
            # From here on things happen to both machines in one order.
            is_changed = True
        return draft, Move(self._rest(after), machine, after.etcd if is_changed else -1)

    def _seen_by(self, etcd: int, machine: int) -> int:
        """Returns the number of a machine when etcd has come into a state."""
        asked = etcd << _MACHINE | machine
        found = self._seeing.get(asked)
        if found is None:
            found = self._seeing[asked] = self._number(self._world.seeing(etcd, self._machines[machine]))
        return found

    def _number(self, machine: Machine) -> int:
        number = self._machines.find(machine)
        if number is None:
            number = self._machines.of(machine, machine)
            face = self._world.face(machine)
            self._face_of.append(self._faces.of(face, face))
        return number

    def _rest(self, state: State) -> int:
        floating = self._floatings.of(state.floating, state.floating)
        return state.etcd << _ETCD_AT | floating << _FLOATING_AT | state.past << _FAULTS | state.faults_left


def _at(place: int, choice: Choice) -> Choice:
    """Returns what happens to a machine, at its place."""
    name, _, number = choice
    return name, place, number


def parts(number: int) -> tuple[int, int, int]:
    """Returns the rest of a state, and the numbers of its machines. The lower number comes first."""
    return number & _REST_MASK, number >> _ONE_AT & _MACHINE_MASK, number >> _OTHER_AT


def packed(one: int, other: int, rest: int) -> int:
    """Returns the number of a state with these machines, whichever is which."""
    if other < one:
        one, other = other, one
    return other << _OTHER_AT | one << _ONE_AT | rest
