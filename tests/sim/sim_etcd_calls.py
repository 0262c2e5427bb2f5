"""Calls the simulated etcd: the real client, over a network that loses, delays and lies.

Each client has a link. A link says of each call what goes wrong with it, and can be cut.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from sim_etcd import Change, Clock, SimEtcd, SimEtcdError
from sim_loop import SimLoop

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Answers, EtcdClient, Keeping
from gowork.leader.log._etcd.endpoints import Endpoints
from gowork.leader.log.holding import OwnLease

#: After how long a connection that has gone silent is given up, in seconds: a ping of gRPC and its time-out. The real
#: client finds out sooner, because it asks the member besides.
_SILENCE_SECONDS = 8.0
#: How long one keepalive may be under way, in seconds.
_KEEPALIVE_SECONDS = 1.0


class Fault(enum.Enum):
    """What goes wrong with one call."""

    #: It does not arrive.
    LOST = enum.auto()
    #: It is done, and the answer does not arrive.
    UNANSWERED = enum.auto()
    #: It is done after the caller has given up.
    LATE = enum.auto()
    #: Its answer arrives just in time.
    SLOW = enum.auto()
    #: Its answer takes half of the time that there is.
    LAGGING = enum.auto()
    #: It is refused, because etcd has too much to do.
    BUSY = enum.auto()
    #: It is answered and not done, as keepalives are by a leader of etcd that is cut off from the other members:
    #: https://github.com/etcd-io/etcd/issues/15247
    HOLLOW = enum.auto()


#: {fault: which part of the time that there is an answer takes}
_ANSWERED_AFTER: dict[Fault | None, float] = {Fault.SLOW: 0.9, Fault.LAGGING: 0.5}


class Link(Protocol):
    """How one client reaches etcd."""

    def now(self) -> float:
        """Returns seconds of the client's clock."""
        ...

    async def call(self, request: Any, seconds: float) -> Any:
        """Makes a call.

        Raises:
            grpc.aio.AioRpcError: it was refused, or not answered in time.
        """
        ...

    def watch(self) -> WatchCall:
        """Opens a stream for one watch."""
        ...

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:
        """See Etcd.keep."""
        ...


class WatchCall(Protocol):
    """A stream for one watch, as gRPC has it."""

    async def write(self, request: pb.WatchRequest) -> None: ...

    async def read(self) -> pb.WatchResponse: ...

    def cancel(self) -> None: ...


class SimEtcdClient(EtcdClient):
    """The real client, over a simulated network.

    Args:
        link: how it reaches etcd, whichever member it calls.
    """

    def __init__(self, link: Link) -> None:
        super().__init__(_SimEndpoints(("member-1:2379", "member-2:2379", "member-3:2379"), link=link))
        self._link = link

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:  # type: ignore[override]
        return self._link.keep(lease, own, over)

    def answers_of(self, call: WatchCall) -> Answers:
        return _Answers(call)

    def now(self) -> float:
        return self._link.now()


class _Answers:
    """Reads a watch that breaks by itself when nobody is there."""

    def __init__(self, call: WatchCall) -> None:
        self.next = call.read

    def end(self) -> None:
        """Has nothing to end."""


class SimLink:
    """A network between one client and etcd.

    Args:
        etcd: is called.
        clock: the network's.
        now: the client's clock.
        delay: how long a message is under way, in seconds.
        fault: says of each request what goes wrong with it.
        late: after how long a late request arrives whose caller gives up after some seconds, in seconds.
        breaks: whether a call without an answer fails at once, as when its connection breaks, and not at its deadline.
    """

    def __init__(
        self,
        etcd: SimEtcd,
        clock: Clock,
        now: Callable[[], float],
        *,
        delay: Callable[[], float] = lambda: 0.0,
        fault: Callable[[Any], Fault | None] = lambda request: None,
        late: Callable[[float], float] = lambda seconds: seconds + 0.5,
        breaks: bool = False,
    ) -> None:
        self._etcd, self._clock = etcd, clock
        self.now = now
        self.delay, self.fault, self.late, self.breaks = delay, fault, late, breaks
        self.is_cut = False
        self._is_deceived = self._is_lied_to = self._is_mute = False
        self._cuts = 0
        self._streams: dict[_SimWatch, None] = {}

    def cut(self, *, is_deceived: bool = False) -> None:
        """Loses all from now on. Streams are silent, and break when that was noticed.

        Args:
            is_deceived: whether keepalives are answered all the same; see Fault.HOLLOW.
        """
        self.is_cut, self._is_deceived = True, is_deceived
        self._cuts += 1
        this, streams = self._cuts, list(self._streams)

        def notice() -> None:
            if self.is_cut and self._cuts == this:
                self._break(streams)

        self._clock.later(_SILENCE_SECONDS, notice)

    def heal(self) -> None:
        """Ends a cut."""
        self.is_cut = False
        for stream in self._streams:
            stream.wake()

    def lie(self, *, is_on: bool) -> None:
        """Has keepalives answered and not done, and watches told nothing, or no more.

        Such is a member of etcd that is cut off from the other members. All other calls go to those.
        """
        self._is_lied_to = is_on
        for stream in self._streams:
            stream.wake()

    def mute(self, *, is_on: bool) -> None:
        """Has watches told nothing, or no more."""
        self._is_mute = is_on
        for stream in self._streams:
            stream.wake()

    @property
    def is_silent(self) -> bool:
        """Whether watches are told nothing."""
        return self.is_cut or self._is_lied_to or self._is_mute

    def break_streams(self) -> None:
        """Ends all watches, as a member does that has lost its leader."""
        self._break(list(self._streams))

    async def call(self, request: Any, seconds: float) -> Any:
        """See Link.call."""
        fault = self._fault_of(request)
        if fault is Fault.BUSY:
            raise rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
        if fault is Fault.HOLLOW:
            return _hollow(request)
        started = asyncio.get_running_loop().time()
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def arrive() -> None:
            try:
                answer: object = self._etcd.do(request)
            except SimEtcdError as error:
                answer = rpc_error(error.code, error.details)
            if fault not in (Fault.UNANSWERED, Fault.LATE):
                part = _ANSWERED_AFTER.get(fault)
                self._clock.later(self.delay() if part is None else part * seconds, lambda: _settle(answered, answer))

        if fault is not Fault.LOST:
            # It arrives even if its caller is cancelled meanwhile.
            self._clock.later(self.late(seconds) if fault is Fault.LATE else self.delay(), arrive)
        loses = fault in (Fault.LOST, Fault.UNANSWERED, Fault.LATE)
        try:
            async with asyncio.timeout_at(started + (self.delay() * 2 if loses and self.breaks else seconds)):
                return await answered
        except TimeoutError:
            if loses and self.breaks:
                raise rpc_error(grpc.StatusCode.UNAVAILABLE, "the connection broke") from None
            raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None

    def _fault_of(self, request: Any) -> Fault | None:
        is_deceived = self._is_deceived if self.is_cut else self._is_lied_to
        if is_deceived and isinstance(request, pb.LeaseKeepAliveRequest):
            return Fault.HOLLOW
        return Fault.LOST if self.is_cut else self.fault(request)

    def watch(self) -> WatchCall:
        """See Link.watch."""
        return _SimWatch(self, self._etcd, self._clock, self._streams)

    def keep(self, lease: int, own: OwnLease, over: Callable[[], None]) -> Keeping:
        """See Link.keep."""
        return _SimKeeping(self, lease, own, over)

    def _break(self, streams: list[_SimWatch]) -> None:
        for stream in streams:
            stream.is_broken = True
            stream.wake()


class _SimWatch:
    """One watch. It can fall behind what etcd still knows, and is told so then."""

    def __init__(self, link: SimLink, etcd: SimEtcd, clock: Clock, streams: dict[_SimWatch, None]) -> None:
        self._link, self._etcd, self._clock, self._streams = link, etcd, clock, streams
        self._watching: Watching | None = None
        self._woken = asyncio.Event()
        self.is_broken = False
        streams[self] = None
        etcd.watchers[self.wake] = None

    def wake(self) -> None:
        self._woken.set()

    async def write(self, request: pb.WatchRequest) -> None:
        self._asked = request.create_request

    async def read(self) -> pb.WatchResponse:
        while True:
            await self._pass()
            if self.is_broken:
                self.cancel()
                raise rpc_error(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
            if not self._link.is_silent:
                if self._watching is None:
                    self._watching = Watching(self._etcd, self._asked)
                    return pb.WatchResponse(header=self._etcd.header(), created=True)
                answer = self._watching.next_answer()
                if answer is not None:
                    return answer
            self._woken.clear()
            await self._woken.wait()

    def cancel(self) -> None:
        self._streams.pop(self, None)
        self._etcd.watchers.pop(self.wake, None)

    async def _pass(self) -> None:
        passed = asyncio.get_running_loop().create_future()
        self._clock.later(self._link.delay(), lambda: _settle(passed, None))
        await passed


class Watching:
    """How far a watch has told what it was asked for."""

    def __init__(self, etcd: SimEtcd, asked: pb.WatchCreateRequest) -> None:
        self._etcd, self._asked = etcd, asked
        self.next = asked.start_revision or etcd.revision + 1

    def next_change(self) -> Change | None:
        """Returns what it has to tell next."""
        return next(self._etcd.changes(self._asked.key, self._asked.range_end, self.next), None)

    def next_answer(self) -> pb.WatchResponse | None:
        """Returns its next answer, if there is one."""
        if self.next < self._etcd.compacted:
            return pb.WatchResponse(header=self._etcd.header(), canceled=True, compact_revision=self._etcd.compacted)
        change = self.next_change()
        if change is None:
            self.next = max(self.next, self._etcd.revision + 1)
            return None
        self.next = change.revision + 1
        return pb.WatchResponse(header=pb.ResponseHeader(revision=change.revision), events=change.events)


class _SimKeeping:
    """Does as Keeper, without a thread."""

    def __init__(self, link: SimLink, lease: int, own: OwnLease, over: Callable[[], None]) -> None:
        self._link, self._lease, self._own, self._over = link, lease, own, over
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    def stop(self) -> None:
        self._keeping.cancel()

    async def _keep(self) -> None:
        own, now = self._own, self._link.now
        while True:
            sent = now()
            if sent >= own.until:
                break
            wait = own.interval
            try:
                request = pb.LeaseKeepAliveRequest(ID=self._lease)
                answer = await self._link.call(request, min(_KEEPALIVE_SECONDS, own.until - sent))
            except grpc.aio.AioRpcError:
                wait = own.interval / 5
            else:
                if not answer.TTL:
                    break
                own.renewed(sent)
            # At least this, because a wait that is lost in rounding would be made for ever at one moment.
            await asyncio.sleep(max(min(wait, own.until - now()), 1e-6))
        self._over()


class SimChannel:
    """A channel of gRPC to one member, as far as the stubs need it. Every member leads to the same link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def unary_unary(self, path: str, **_: object) -> Callable[..., Any]:
        link = self._link
        return lambda request, *, timeout, metadata=(): link.call(request, timeout)

    def stream_stream(self, path: str, **_: object) -> Callable[..., WatchCall]:
        return self._watch

    def _watch(self, *, metadata: object) -> WatchCall:
        return self._link.watch()

    async def close(self) -> None:
        """Has nothing to close."""


class _SimEndpoints(Endpoints, frozen=True):
    link: Any = None

    def channel(self, address: str) -> Any:
        return SimChannel(self.link)


class LoopClock:
    """The clock of an event loop; of a simulator's loop, the world's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.now if isinstance(self._loop, SimLoop) else self._loop.time()

    def later(self, seconds: float, function: Callable[[], object]) -> object:
        if isinstance(self._loop, SimLoop):
            return self._loop.later(seconds, function)
        return self._loop.call_later(seconds, function)


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """Returns what a call of gRPC raises."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def _settle(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _hollow(request: Any) -> Any:
    assert isinstance(request, pb.LeaseKeepAliveRequest)
    return pb.LeaseKeepAliveResponse(ID=request.ID, TTL=3)
