"""Each state that a process was seen in, and what each word made of it.

Both machines are the same, so they share these states: what one process has done is known of the other one, too. A
state is found by running a real process, and each step is taken once. After that it is only looked up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence, Set
from itertools import chain
from typing import NamedTuple

from explore_digest import Outside
from explore_etcd import Etcds
from explore_loop import ExploreLoop
from explore_numbers import Numbers
from explore_process import Effect, Process, Word, writes
from memory_store import Content
from sim_etcd_calls import SimEtcdClient

#: How many processes are kept for their next step, in all and in one state.
_LIVE_MAX, _LIVE_EACH_MAX = 6_000, 4
#: The first 1,000 steps are compared with those of another process, where there is one; later every tenth step is.
_ALL_COMPARED, _COMPARED_EVERY = 1_000, 10
#: (what is told, the place of a call or stream, number of what is told)
Told = tuple[Word, int, int]
#: How a process has come into a state: the number of its store at the start, and what it was told since.
Way = tuple[int, tuple[Told, ...]]


class DifferError(Exception):
    """Two processes with the same digest have done different things. So the digest does not say all."""


class Watch(NamedTuple):
    """A stream of a process."""

    key: bytes
    end: bytes
    #: Whether something can be told.
    is_read: bool


class Step(NamedTuple):
    """What a word makes of a process."""

    after: int
    #: For each call, and for each stream, its place before; -1: it is new.
    calls: tuple[int, ...]
    streams: tuple[int, ...]
    #: For each new stream, the revision that it is to begin with; 0: the next one.
    starts: tuple[int, ...]
    #: What nobody waits for any more: (place before, or -1; number of the request).
    abandoned: tuple[tuple[int, int], ...]
    effects: tuple[Effect, ...]


class Local:
    """One state of a process."""

    def __init__(self, process: Process, requests: tuple[int, ...], store: int) -> None:
        #: The numbers of the requests that wait for an answer.
        self.requests = requests
        self.writes = tuple(writes(call.request) for call in process.calls)
        self.streams = tuple(
            Watch(stream.asked.key, stream.asked.range_end, stream.is_read()) for stream in process.streams
        )
        self.has_timers = bool(process.live_timers())
        #: The lease that it keeps; 0: none. And those that it may still use, and the ones of them that can't end yet.
        self.keeps = process.keeps
        self.leases = frozenset(process.leases)
        self.fresh = frozenset(process.fresh)
        self.safe = self.fresh | {process.keeps}
        #: The number of what its store has.
        self.store = store
        self.wants_copy = process.copied is not None
        self.leads = process.leads
        #: Up to two ways to it.
        self.ways: list[Way] = []
        self.steps: dict[Told, Step] = {}
        #: What can be told to it while it is cut off, until it is reached again. See Locals.while_cut_off.
        self.while_cut_off: list[tuple[Told, ...]] | None = None

    def unreached(self, *, long: bool) -> Told | None:
        """Returns what happens next to a process that is cut off; None: nothing.

        Args:
            long: whether it is cut off for long, so that watches break.
        """
        if self.requests:
            return Word.FAIL, 0, 0
        broken = [place for place, watch in enumerate(self.streams) if long and watch.is_read]
        if broken:
            return Word.BREAK, broken[0], 0
        return (Word.TIMER, 0, 0) if self.has_timers else None


class Locals(Outside):
    """All states of processes that were seen.

    Args:
        etcds: numbers requests and answers.
        life: what each process does.
    """

    def __init__(self, etcds: Etcds, life: Callable[[Process, SimEtcdClient], Awaitable[None]]) -> None:
        self._etcds, self._life = etcds, life
        self._loop = ExploreLoop()
        self._locals: Numbers[Local] = Numbers()
        self.stores: Numbers[Content] = Numbers()
        self._births: dict[int, Step] = {}
        #: {state: processes in it, each with its way}, the states that were seen last at the end. All processes in a
        #: state are alike, so any of them takes its next step.
        self._live: OrderedDict[int, list[tuple[Process, Way]]] = OrderedDict()
        self._live_count = 0
        #: The process that runs.
        self.running: Process | None = None
        #: How many steps processes have taken, and how many of them again.
        self.steps = 0
        self.repeated = 0
        #: How many steps were compared with those of another process with the same digest.
        self.compared = 0

    def __len__(self) -> int:
        return len(self._locals)

    def __getitem__(self, number: int) -> Local:
        return self._locals[number]

    def digests(self) -> Set[Hashable]:
        """Returns the digests of all states."""
        return self._locals.keys()

    def close(self) -> None:
        """Ends all processes."""
        for process, _ in chain.from_iterable(self._live.values()):
            process.discard()
        self._loop.close()

    def store(self, content: Content) -> int:
        """Returns the number of what a store has."""
        return self.stores.of((content.position, content.term, tuple(sorted(content.facts))), content)

    def birth(self, store: int) -> Step:
        """Returns the first step of a process with this store."""
        if store not in self._births:
            process = self._make(store)
            self._births[store] = self._step(process, (store, ()), [], [])
        return self._births[store]

    def step(self, number: int, told: Told) -> Step:
        """Returns what a word makes of a process."""
        local = self._locals[number]
        step = local.steps.get(told)
        if step is None:
            step = local.steps[told] = self._take(*self._in_state(number), told)
            if len(local.ways) > 1 and (self.steps < _ALL_COMPARED or self.steps % _COMPARED_EVERY == 0):
                self.compared += 1
                other = self._take(self._remade(local.ways[1]), local.ways[1], told)
                if other != step:
                    raise DifferError(f"{step} and {other} after {told}, told after {local.ways}")
        return step

    def while_cut_off(self, number: int) -> list[tuple[Told, ...]]:
        """Returns all that can be told to a process while it is cut off. Nobody else can see what it does then.

        A short time passes, or a long one. Then its calls fail, its watches break if it was long, and its timers fire,
        in this order, until it repeats itself. It can be reached again after each of these.
        """
        local = self._locals[number]
        if local.while_cut_off is None:
            found: dict[int, tuple[Told, ...]] = {number: ()}
            for long in (False, True):
                now = number
                way: tuple[Told, ...] = ()
                told: Told | None = (Word.LONG, 0, 0) if long else local.unreached(long=False)
                passed: set[int] = set()
                while told is not None and now not in passed:
                    passed.add(now)
                    way = (*way, told)
                    now = self.step(now, told).after
                    found.setdefault(now, way)
                    told = self._locals[now].unreached(long=long)
            local.while_cut_off = list(found.values())
        return local.while_cut_off

    def _in_state(self, number: int) -> tuple[Process, Way]:
        """Returns a process in a state, and its way."""
        kept = self._live.get(number)
        if kept is None:
            way = self._locals[number].ways[0]
            return self._remade(way), way
        self._live_count -= 1
        if len(kept) == 1:
            del self._live[number]
        return kept.pop()

    def _remade(self, way: Way) -> Process:
        process = self._make(way[0])
        for word in way[1]:
            self._tell(process, word)
            self.repeated += 1
        return process

    def _take(self, process: Process, way: Way, told: Told) -> Step:
        calls, streams = list(process.calls), list(process.streams)
        self._tell(process, told, is_new=True)
        return self._step(process, (way[0], (*way[1], told)), calls, streams)

    def _make(self, store: int) -> Process:
        process = Process(self._loop, self.stores[store], self._live_once)
        process.sort()
        return process

    async def _live_once(self, process: Process, etcd: SimEtcdClient) -> None:
        self.running = process
        await self._life(process, etcd)

    def _tell(self, process: Process, told: Told, *, is_new: bool = False) -> None:
        word, place, number = told
        self.running = process
        self.steps += is_new
        process.tell(word, place, self.stores[number] if word is Word.COPY else self._etcds.answers[number])
        process.sort()

    def _step(self, process: Process, way: Way, calls: Sequence[object], streams: Sequence[object]) -> Step:
        requests = tuple(self._etcds.request(call.request) for call in process.calls)
        store = self.store(process.content)
        digest = process.digest()
        number = self._locals.find(digest)
        if number is None:
            number = self._locals.of(digest, Local(process, requests, store))
        local = self._locals[number]
        if len(local.ways) < 2 and way not in local.ways:
            local.ways.append(way)
        step = Step(
            number,
            tuple(_place(calls, call) for call in process.calls),
            tuple(_place(streams, stream) for stream in process.streams),
            tuple(0 if stream in streams else stream.asked.start_revision for stream in process.streams),
            tuple((_place(calls, call), self._etcds.request(call.request)) for call in process.abandoned),
            tuple(process.effects),
        )
        self._keep(number, process, way)
        return step

    def _keep(self, number: int, process: Process, way: Way) -> None:
        kept = self._live.setdefault(number, [])
        if len(kept) == _LIVE_EACH_MAX:
            process.discard()
            return
        kept.append((process, way))
        self._live_count += 1
        while self._live_count > _LIVE_MAX:
            _, oldest = self._live.popitem(last=False)
            self._live_count -= len(oldest)
            for each, _ in oldest:
                each.discard()


def _place(among: Sequence[object], wanted: object) -> int:
    return next((place for place, each in enumerate(among) if each is wanted), -1)
