"""The order in which things happen unless a schedule deviates from it, so that schedules are bounded by deviations.

In each state one thing is next. If another thing happens instead, that is a deviation. A search that allows a number of
deviations visits each state that a schedule with no more of them can reach. With enough of them it visits all states.
Deviations are counted like the delays of delay-bounded scheduling (Emmi, Qadeer, Rakamarić: "Delay-bounded scheduling",
POPL 2011). Here a deviation may choose anything, and what is next depends on the state alone.

The order is: calls are done and answered, watches tell, a copy is taken, a lease ends that nobody keeps, timers fire,
and who is cut off or stands still goes on. Of two leaders that wait for the same of these, the one that leads comes
first, then the one that was seen earlier. If there are only timers, those of both leaders are next, because one that
fires again and again must not hold up the other. What nobody waits for arrives late only by a deviation.

A fault is no deviation: each may begin in every state. All that may come of a call, of a pause or of a cut is next
together.
"""

from __future__ import annotations

from typing import NamedTuple

from explore_draft import Mode
from explore_successors import Following, Move, Successors, packed, parts
from explore_world import Choice, World

#: What happens, by name, and when it is next.
_TURNS = {"is done": 0, "is answered": 0, "fails": 0, "is told": 1, "copies": 2, "a lease ends": 3, "waits": 4}
_TIMERS = _TURNS["waits"]
#: When who is cut off or stands still is next.
_BACK = 5


class _Turn(NamedTuple):
    """When something is next: when no turn is lower."""

    turn: int
    follows: bool = False
    machine: int = 0
    #: Of which call, stream or lease it is.
    number: int = 0


class OrderedSuccessors(Successors):
    """Finds the states that follow, and says which of them deviate from the order. It leaves no states out.

    Args:
        world: what they are in. It must leave nothing out either.
    """

    def __init__(self, world: World) -> None:
        assert not world.reduces
        super().__init__(world)
        #: {both faces, and the rest: what may happen to neither machine}
        self._to_neither: dict[int, tuple[tuple[Choice, Move], ...]] = {}

    def following(self, number: int) -> Following:
        """See Successors.following."""
        rest, one, other = parts(number)
        states: list[int] = []
        deviating: list[int] = []
        waiting: dict[_Turn, list[int]] = {}
        must = False
        for this, that in ((one, other), (other, one)) if one != other else ((one, other),):
            machine = self._machines[this]
            follows = not self._world.locals[machine.local].leads
            steps = self._steps_of(rest, this, that)
            must = must or steps.must
            for (name, _, which), (after, becomes, etcd) in steps.seen:
                follower = packed(becomes, that if etcd < 0 else self._seen_by(etcd, that), after)
                if machine.mode != Mode.USUAL:
                    waiting.setdefault(_Turn(_BACK, follows, this), []).append(follower)
                elif name in _TURNS:
                    waiting.setdefault(_Turn(_TURNS[name], follows, this, which), []).append(follower)
                else:
                    states.append(follower)
        for (name, _, which), (after, _, etcd) in self._of_no_machine(number, one, other):
            machines = (one, other) if etcd < 0 else (self._seen_by(etcd, one), self._seen_by(etcd, other))
            follower = packed(*machines, after)
            if name == "arrives late":
                deviating.append(follower)
            elif name in _TURNS:
                waiting[_Turn(_TURNS[name], number=which)] = [follower]
                must = True
            else:
                states.append(follower)
        first = min(waiting, default=None)
        for turn, followers in waiting.items():
            is_next = turn == first or (first is not None and turn.turn == first.turn == _TIMERS)
            (states if is_next else deviating).extend(followers)
        return Following(states, deviating, [] if must else [self.state(number)])

    def _of_no_machine(self, number: int, one: int, other: int) -> tuple[tuple[Choice, Move], ...]:
        asked = packed(self._face_of[one], self._face_of[other], parts(number)[0])
        moves = self._to_neither.get(asked)
        if moves is None:
            state = self.state(number)
            happenings = [*self._world.ending(state), *self._world.late(state)]
            moves = self._to_neither[asked] = tuple((each[0], self._done(state, each, -1)[1]) for each in happenings)
        return moves
