"""One process of a leader, run alone: it is told things, one at a time, and then says what it waits for.

What it does next depends on its store and on what it was told, and on nothing else. So a process can be made anew and
told the same, to see what else it would do.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from copy import copy
from hashlib import blake2b
from typing import Any, NamedTuple

import grpc
from explore_digest import EPOCH_SECONDS, Outside, ProcessDigest
from explore_loop import ExploreLoop
from memory_store import Content, MemoryStore, Shelf
from msgspec.structs import replace
from sim_etcd_calls import SimEtcdClient, WatchCall, rpc_error

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Keeping
from gowork.leader.log.holding import OwnLease

#: How long a slow answer takes, in seconds: nearly as long as a call may.
_SLOW_SECONDS = 0.9
#: How long a process stands still, or is cut off, in seconds: longer than anything that it waits for.
_LONG_SECONDS = 1_000.0
#: How many awaits there may be in the cleanup of one task.
_CLEANUPS_MAX = 8


class Word(enum.IntEnum):
    """What a process can be told. Most words come with the place of a call or of a stream, and with what is told."""

    #: A call is answered.
    ANSWER = enum.auto()
    #: A call is answered nearly too late.
    SLOW = enum.auto()
    #: A call gets no answer.
    FAIL = enum.auto()
    #: A watch tells something.
    TELL = enum.auto()
    #: A watch breaks.
    BREAK = enum.auto()
    #: The next timer fires.
    TIMER = enum.auto()
    #: A long time has passed. Its lease is over.
    LONG = enum.auto()
    #: Here is a copy of the other leader's store.
    COPY = enum.auto()
    #: An operator has it step down.
    STEP_DOWN = enum.auto()


class Effect(NamedTuple):
    """Something that a checker must know."""

    kind: str
    number: int = 0
    digest: bytes = b""


class Call(Outside):
    """A call that has not been answered."""

    def __init__(self, request: Any, number: int) -> None:
        self.request = request
        #: The order of calls. Two calls that ask the same stay in this order.
        self.key = (type(request).__name__, request.SerializeToString(deterministic=True), number)
        self.answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def writes(self) -> bool:
        """Whether it may change something."""
        return writes(self.request)


class Stream(Outside):
    """One watch of a process."""

    def __init__(self, process: Process, number: int) -> None:
        self._process, self._number = process, number
        self.asked = pb.WatchCreateRequest()
        self.reading: asyncio.Future[pb.WatchResponse] | None = None

    @property
    def key(self) -> tuple[bytes, int]:
        """The order of streams."""
        return self.asked.key, self._number

    async def write(self, request: pb.WatchRequest) -> None:
        self.asked = request.create_request
        self._process.streams.append(self)

    async def read(self) -> pb.WatchResponse:
        self.reading = asyncio.get_running_loop().create_future()
        return await self.reading

    def cancel(self) -> None:
        if self in self._process.streams:
            self._process.streams.remove(self)

    def is_read(self) -> bool:
        return self.reading is not None and not self.reading.done()


class Held(Outside):
    """The lease that a process keeps."""

    def __init__(self, lease: int, own: OwnLease, over: Callable[[], None]) -> None:
        self.lease, self.own, self.over = lease, own, over
        self.is_stopped = False

    def stop(self) -> None:
        self.is_stopped = True


class Process(Outside):
    """A leader from its start to a crash, and its link to etcd.

    Args:
        loop: runs it.
        content: what its store has at the start.
        life: what it does.
    """

    def __init__(
        self, loop: ExploreLoop, content: Content, life: Callable[[Process, SimEtcdClient], Awaitable[None]]
    ) -> None:
        self._loop = loop
        self.time = EPOCH_SECONDS * 10
        self.timers: list[asyncio.TimerHandle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.calls: list[Call] = []
        self.streams: list[Stream] = []
        #: Calls that nobody waits for any more, though etcd may do them yet.
        self.abandoned: list[Call] = []
        self.effects: list[Effect] = []
        self.shelf = Shelf()
        self.shelf.contents["store"] = copy(content)
        self.store = MemoryStore(self.shelf, "store")
        self.held: Held | None = None
        #: The leases that it was given and has not given back, and until when each one lasts, by its own clock.
        self.leases: dict[int, float] = {}
        #: Those of them that it does not keep yet, and that have time.
        self.fresh: set[int] = set()
        #: What it waits for when it needs a copy of another store.
        self.copied: asyncio.Future[Content] | None = None
        self.stepping_down = asyncio.Event()
        #: Whether it can step down.
        self.leads = False
        self._counted = 0
        #: What nonces are made of: the present leadership, and how many it has.
        self._nonces = (0, 0)
        loop.process = self
        self._main = loop.create_task(self._live(life))
        loop.settle(self)

    @property
    def content(self) -> Content:
        """What its store has now."""
        return self.shelf.contents["store"]

    @property
    def keeps(self) -> int:
        """The lease that it keeps; 0: none."""
        held = self.held
        return held.lease if held is not None and not held.is_stopped and held.own.until > self.time else 0

    def live_timers(self) -> list[asyncio.TimerHandle]:
        self.timers = [timer for timer in self.timers if not timer.cancelled()]
        return self.timers

    def tell(self, word: Word, place: int, told: Any) -> None:
        """Tells it something, and runs it until it waits again.

        Args:
            word: what.
            place: of which call or stream.
            told: the answer, or the store's content.
        """
        self.effects, self.abandoned = [], []
        self._take(word, place, told)
        self._loop.settle(self)

    def sort(self) -> None:
        """Gives calls and streams their places."""
        self.calls.sort(key=lambda call: call.key)
        self.streams.sort(key=lambda stream: stream.key)

    def digest(self) -> bytes:
        """Returns what stands for all that it will do."""
        self.tasks = [task for task in self.tasks if not task.done()]
        digest = ProcessDigest(self.time)
        for call in self.calls:
            digest.add(call.key[:2])
            digest.add(call.answered)
        for stream in self.streams:
            digest.add((stream.asked.key, stream.asked.range_end))
            digest.add(stream.reading)
        digest.add(self.copied)
        digest.add(sorted(self.live_timers(), key=lambda timer: timer.when()))
        digest.add((self.keeps, sorted(self.leases), sorted((each, self.leases[each]) for each in self.fresh)))
        digest.add(self._nonces)
        digest.add((self.leads, self.stepping_down.is_set()))
        digest.add(self.held.own if self.held is not None and not self.held.is_stopped else None)
        digest.add(self.store)
        digest.add(self._main)
        for task in self.tasks:
            if not digest.is_known(task):
                digest.add(task)
        return digest.digest()

    def discard(self) -> None:
        """Ends what is still under way. It must not go on when it is garbage, because another process may run then."""
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine: Any = task.get_coro()
            for _ in range(_CLEANUPS_MAX):
                try:
                    coroutine.close()
                except BaseException:  # noqa: BLE001 - it awaits something while it is closed
                    continue
                break

    def nonce(self, size: int) -> bytes:
        """Returns bytes that no other leadership has, and that are the same whenever its history is."""
        token, count = self._nonces
        self._nonces = token, count + 1
        return blake2b(b"%d-%d" % (token, count), digest_size=size).digest()

    def was_elected(self, token: int) -> None:
        self._nonces = token, 0

    def is_over(self) -> None:
        """Ends a leadership. Nothing of it is used any more."""
        self.leads = False
        self._nonces = 0, 0
        if self.held is not None:
            self.leases.pop(self.held.lease, None)

    def now(self) -> float:
        """See Link.now."""
        return self.time

    async def call(self, request: Any, seconds: float) -> Any:
        """See Link.call."""
        self._counted += 1
        call = Call(request, self._counted)
        self.calls.append(call)
        if isinstance(request, pb.LeaseRevokeRequest):
            self.leases.pop(request.ID, None)
            self.fresh.discard(request.ID)
        try:
            return await call.answered
        except asyncio.CancelledError:
            if call in self.calls:
                self.calls.remove(call)
                self.abandoned.append(call)
            raise

    def watch(self) -> WatchCall:
        """See Link.watch."""
        self._counted += 1
        return Stream(self, self._counted)

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:
        """See Etcd.keep. Keepalives are answered for ever, because safety must not rest on them."""
        late = own.until - self.leases.get(lease, own.until)
        if late > 0:
            self.effects.append(Effect("own lease", int(late * 1000)))
        self.held = Held(lease, own, over)
        self.fresh.discard(lease)
        if own.until > self.time:
            own.until = float("inf")
        else:
            asyncio.get_running_loop().call_soon(over)
        return self.held

    def _take(self, word: Word, place: int, told: Any) -> None:
        match word:
            case Word.ANSWER | Word.SLOW:
                if isinstance(told, pb.LeaseGrantResponse):
                    self.leases[told.ID] = self.time + told.TTL
                    self.fresh.add(told.ID)
                if word is Word.SLOW:
                    self.time += _SLOW_SECONDS
                self._answer(place, told)
            case Word.FAIL:
                self._answer(place, rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
            case Word.TELL:
                _settle(self.streams[place].reading, told)
            case Word.BREAK:
                _settle(self.streams[place].reading, rpc_error(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"))
            case Word.TIMER:
                timer = min(self.live_timers(), key=lambda each: each.when())
                self.timers.remove(timer)
                self._loop.fire(timer)
            case Word.LONG:
                self.time += _LONG_SECONDS
                self.fresh.clear()
                if self.held is not None and not self.held.is_stopped:
                    self.held.own.until = self.time
                    self.held.over()
            case Word.COPY:
                assert self.copied is not None
                self.copied.set_result(told)
                self.copied = None
            case Word.STEP_DOWN:
                self.stepping_down.set()

    def _answer(self, place: int, told: object) -> None:
        _settle(self.calls.pop(place).answered, told)

    async def _live(self, life: Callable[[Process, SimEtcdClient], Awaitable[None]]) -> None:
        try:
            etcd = SimEtcdClient(self)
            # With one address, it does not matter which member was asked last.
            etcd._endpoints = replace(etcd._endpoints, addresses=("member:2379",))
            await life(self, etcd)
        except Exception as error:  # noqa: BLE001 - any of them is a finding
            self.effects.append(Effect(f"ended: {error!r}"))


def writes(request: Any) -> bool:
    """Whether a request may change something."""
    if isinstance(request, pb.TxnRequest):
        return any(not operation.HasField("request_range") for operation in request.success)
    return isinstance(request, (pb.LeaseGrantRequest, pb.LeaseRevokeRequest, pb.CompactionRequest))


def leases_of(request: Any) -> Iterable[int]:
    """Yields the leases that a request names."""
    if isinstance(request, pb.TxnRequest):
        yield from (each.request_put.lease for each in request.success if each.request_put.lease)
    elif isinstance(request, pb.LeaseRevokeRequest):
        yield request.ID


def _settle(future: asyncio.Future[Any] | None, answer: object) -> None:
    assert future is not None
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
