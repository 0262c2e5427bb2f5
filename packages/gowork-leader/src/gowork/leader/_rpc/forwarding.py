"""Forwards calls to the leader while this node does not lead, so that a node's ports are good for any call.

Invariant ONE-HOP: a forwarded call is never forwarded again, and a call that was sent is sent again only if the leader
refused it before it did anything with it. Heartbeats alone may be sent twice, because they only say that their sender
lives.

Messages pass as bytes. While no leader is known, calls with one answer wait for one, and streams are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import DecodeError

from gowork.base.decoding import not_protobuf
from gowork.base.tls import Tls
from gowork.leader._rpc.admission import BYTES_WAITING_MAX, Admission
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.heartbeats import HeartbeatStream
from gowork.leader._rpc.hops import NOT_LEADER, handed_back, hint, is_forwarded
from gowork.leader._rpc.services import HEARTBEAT, REQUESTS, SERVICES, Method, Port
from gowork.leader._rpc.upstream import LeaderLost, RefusedUnread, Upstream
from gowork.proto.status import Refusal, abort, refusal_of

_log = logging.getLogger(__name__)

#: How long a call with one answer waits for a leader, in seconds.
WAIT_SECONDS = 10.0
#: How long a stream waits until the leader that is known is connected, in seconds.
CONNECT_SECONDS = 1.0
#: How many calls may wait for a leader. Further ones are refused.
WAITING_CALLS_MAX = 5_000
#: How many bytes the requests of calls with one answer may have, over all calls, while they wait for a leader or for
#: its answer; and how many the requests of open streams of answers.
REQUEST_BYTES_MAX = BYTES_WAITING_MAX
STREAM_REQUEST_BYTES_MAX = 64 << 20
#: How long calls with one answer that were sent may go on when their leader is given up, in seconds. A former leader
#: that lives answers by then what it has taken.
UNDER_WAY_SECONDS = 1.0
#: How long before a caller's deadline it is told that no leader was found, in seconds.
TELL_SECONDS = 0.5
#: How long after it had a leader a node is still ready, in seconds.
READY_SECONDS = 30.0
#: For how long a node that reaches the leader, but not the log, is still ready, in seconds. That leader leads, so the
#: log works, and only this node is cut off from it.
BEHIND_SECONDS = 5.0

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_NO_LEADER = "no leader was found in time, and the call was not carried out; repeat it{}"
_TOO_MANY = "no leader is known, and {} calls wait for one, which is the limit; repeat this one in a moment{}"
_NO_STREAMS = "no leader can be reached now; open the stream again in a moment{}"
_CHANGED = "the leader has changed, or can't be reached any more; open the stream again"
_TWO_HOPS = "this leader does not lead, and calls are forwarded once only"
_LOST = Refusal(
    grpc.StatusCode.UNAVAILABLE,
    "LEADER_LOST",
    "the connection to the leader ended before it answered, so it is unknown whether the call was carried out; repeat "
    "it if that is safe",
)


def _not_leading(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", message)


class Forwarding:
    """Answers all calls by asking the leader. Enter `running` once, tell it of leaders inside, and stop it."""

    def __init__(self, changed: Callable[[], None] = lambda: None, tls: Tls | None = None) -> None:
        """Makes what forwards calls. It knows no leader yet.

        Args:
            changed: is called when `reaches` may have changed.
            tls: the certificates with which the leader is called; None: plain text.
        """
        self._notify = changed
        self._tls = tls
        #: {port: {call: what answers it, in bytes}}
        self.methods: dict[Port, dict[str, Method]] = {
            port: {
                f"{service}/{name}": self._method(f"{service}/{name}", port, streams=streams)
                for service, names in SERVICES.items()
                for name, streams in names.items()
            }
            for port in Port
        }
        #: Of former leaders and of the current one.
        self._tasks: set[asyncio.Task[None]] = set()
        self._leader: Upstream | None = None
        #: Why nobody says who leads; empty: somebody does.
        self._because = ""
        #: Since when nobody does, by the loop's clock.
        self._silent_at = math.inf
        self._reaching: asyncio.Task[None] | None = None
        #: What answers calls of a term that leads here: {call: method}; None: none does.
        self._here: Mapping[str, Method] | None = None
        #: Why nothing is forwarded any more.
        self._stopped: Refusal | None = None
        #: Wakes all calls that wait for a leader.
        self._news = asyncio.Event()
        self._waiting = 0
        self._asked = Admission(REQUEST_BYTES_MAX, "requests wait for the leader")
        self._followed = Admission(STREAM_REQUEST_BYTES_MAX, "requests belong to open streams")
        self._heartbeats: set[HeartbeatStream[bytes]] = set()
        #: When a leader was last reached, by the loop's clock.
        self._reached_at = -math.inf

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the connections to leaders while it is entered. When it is left, none remains."""
        try:
            yield
        finally:
            self._change(None)
            if self._tasks:
                await asyncio.wait(self._tasks)

    def follow(self, addresses: Mapping[Port, str] | None) -> None:
        """Forwards calls to this leader from now on. Streams to a former one end.

        Args:
            addresses: where it serves: {port: HOST:PORT}; None: nobody leads.
        """
        self._here = None
        self._because, self._silent_at = "", math.inf
        if addresses is None or self._leader is None or self._leader.addresses != addresses:
            self._change(addresses)
        else:
            self._leader.unconfirmed.clear()
            self._tell()

    def follow_on(self, because: str) -> None:
        """Forwards calls to the leader that was told last, for as long as it says itself that it leads.

        Args:
            because: why nobody else says who leads, for people.
        """
        self._here = None
        self._because = f"; {because}"
        self._silent_at = min(self._silent_at, asyncio.get_running_loop().time())
        if self._leader is not None:
            self._leader.unconfirmed.set()
        self._tell()

    def lead_here(self, methods: Mapping[str, Method]) -> None:
        """Forwards nothing until `follow`, and ends streams. Calls that wait for a leader are answered here.

        Args:
            methods: what answers them: {call: method}.
        """
        self._here = methods
        self._change(None)
        self._end_heartbeats(_not_leading(_CHANGED))

    def answer(self, methods: Mapping[str, Method]) -> None:
        """Has these calls answered here, also while a leader is known. They have one request.

        Args:
            methods: what answers them: {call: method}.
        """
        for call, method in methods.items():
            service, name = call.split("/")
            answering = _answering_in_parts if SERVICES[service][name] else _answering
            for table in self.methods.values():
                table[call] = answering(call, method)

    def stop(self, refusal: Refusal) -> None:
        """Ends streams, and calls that wait for a leader, with this refusal. Calls under way may be answered."""
        self._stopped = refusal
        self._change(None)
        self._end_heartbeats(refusal)

    @property
    def reaches(self) -> tuple[bool, str]:
        """Whether this node is ready, and words that say why.

        It is when calls reach a leader, unless the log has been silent for BEHIND_SECONDS, and for READY_SECONDS after
        they did.
        """
        at = "" if self._leader is None else self._leader.addresses[Port.SCHEDULER]
        now = asyncio.get_running_loop().time()
        if self._leads:
            return now < self._silent_at + BEHIND_SECONDS, f"follows the leader at {at}{self._because}"
        missing = (f"the leader at {at} does not answer" if at else "no leader is known") + self._because
        seconds = now - self._reached_at
        if seconds < READY_SECONDS:
            return True, f"{missing}; one answered {seconds:.0f} s ago"
        return False, missing

    @property
    def expires_at(self) -> float:
        """When `reaches` turns false if nothing happens, by the loop's clock."""
        return self._silent_at + BEHIND_SECONDS if self._leads else self._reached_at + READY_SECONDS

    @property
    def _leads(self) -> bool:
        return self._leader is not None and self._leader.leads

    def _change(self, addresses: Mapping[Port, str] | None) -> None:
        """Gives the leader up, and begins with another one if there is one."""
        former, self._leader = self._leader, None
        if former is not None:
            assert self._reaching is not None
            self._reaching.cancel()
            self._begin(former.close(self._stopped or _not_leading(_CHANGED), UNDER_WAY_SECONDS))
        if addresses is not None:
            self._leader = Upstream(addresses, self._met, self._tls)
            if self._because:
                self._leader.unconfirmed.set()
            self._reaching = self._begin(self._leader.run())
        self._tell()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="forwarding")
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("the connection to the leader failed", exc_info=error)

    def _met(self) -> None:
        """Notes that a leader is reached from now on, or was until now."""
        self._reached_at = asyncio.get_running_loop().time()
        leader = self._leader
        if leader is not None and not leader.leads and self._because:
            # Nobody will say that another one leads. Its streams end, and it is tried anew.
            self._change(leader.addresses)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()
        self._notify()

    def _end_heartbeats(self, refusal: Refusal) -> None:
        for stream in self._heartbeats:
            stream.end(Refusal(refusal.code, refusal.reason, refusal.message))

    def _method(self, call: str, port: Port, *, streams: bool) -> Method:
        async def ask(request: bytes, context: _Context) -> bytes:
            async with _handing_on(context, _LOST):
                with self._asked.taking(len(request)):
                    return await self._ask(call, request, port, context)

        async def stream(requests: Any, context: _Context) -> AsyncIterator[bytes]:
            async with _handing_on(context, _not_leading(_CHANGED)):
                with self._followed.taking(len(requests) if isinstance(requests, bytes) else 0):
                    leader = await self._connected()
                    async with contextlib.aclosing(leader.follow(call, requests, port, context)) as answers:
                        async for answer in answers:
                            yield answer

        async def heartbeat(requests: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
            async with _handing_on(context, _LOST):
                beats = HeartbeatStream(requests)
                self._heartbeats.add(beats)
                try:
                    hinted = False
                    async for _ in beats.responses(lambda beat: self._hear(beat, port, context)):
                        if not hinted and self._leader is not None:
                            await hint(context, self._leader.addresses[port])
                            hinted = True
                        # The response is an empty message.
                        yield b""
                finally:
                    self._heartbeats.discard(beats)

        if call == HEARTBEAT:
            return heartbeat
        return stream if streams else ask

    async def _ask(self, call: str, request: bytes, port: Port, context: _Context) -> bytes:
        until = _until(context)
        while True:
            found = await self._found(until)
            if not isinstance(found, Upstream):
                return await _answered_here(found[call], call, request, context)
            with contextlib.suppress(RefusedUnread):
                return await found.ask(call, request, port, context)

    async def _hear(self, beat: bytes, port: Port, context: _Context) -> None:
        """Forwards a heartbeat, as a call of its own, so that its stream outlives the leader that heard the others."""
        until = _until(context)
        with self._asked.taking(len(beat)):
            while True:
                found = await self._found(until)
                if not isinstance(found, Upstream):
                    raise _not_leading(_CHANGED)
                try:
                    await found.ask(HEARTBEAT, beat, port, context)
                except (RefusedUnread, LeaderLost):
                    continue
                except grpc.aio.AioRpcError as error:
                    if refusal_of(error).reason != "NOT_SERVING":
                        raise
                    # Its term ends.
                    found.doubt()
                    continue
                return

    async def _found(self, until: float) -> Upstream | Mapping[str, Method]:
        """Returns the leader, or what answers calls here, and waits for that.

        Args:
            until: for how long, by the loop's clock.

        Raises:
            Refusal: there is none in time, too many calls wait, or this node stops.
        """
        found = self._at_hand()
        if found is not None:
            return found
        if self._waiting >= WAITING_CALLS_MAX:
            raise _not_leading(_TOO_MANY.format(self._waiting, self._because))
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                while (found := self._at_hand()) is None:
                    await self._news.wait()
        except TimeoutError:
            raise _not_leading(_NO_LEADER.format(self._because)) from None
        finally:
            self._waiting -= 1
        return found

    async def _connected(self) -> Upstream:
        """Returns the leader for a stream. A stream does not wait for a leader, except until it is connected."""
        try:
            until = asyncio.get_running_loop().time() + CONNECT_SECONDS
            found = self._at_hand() if self._leader is None else await self._found(until)
        except Refusal:
            if self._stopped is not None:
                raise
            found = None
        if not isinstance(found, Upstream):
            raise _not_leading(_NO_STREAMS.format(self._because))
        return found

    def _at_hand(self) -> Upstream | Mapping[str, Method] | None:
        if self._stopped is not None:
            # A new one each time, because an exception that is raised keeps where it was raised.
            raise Refusal(self._stopped.code, self._stopped.reason, self._stopped.message)
        return self._here or (self._leader if self._leads else None)


@contextlib.asynccontextmanager
async def _handing_on(context: _Context, lost: Refusal) -> AsyncIterator[None]:
    """Hands the leader's refusals on to the caller, and refuses calls that were forwarded before.

    Args:
        context: the context of the call.
        lost: what the caller is told when the connection to the leader ends.
    """
    async with refusing(context):
        if is_forwarded(context):
            raise Refusal(grpc.StatusCode.UNAVAILABLE, NOT_LEADER, _TWO_HOPS)
        try:
            yield
        except (LeaderLost, RefusedUnread):
            await abort(context, lost)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", handed_back(error.trailing_metadata()))


def _answering(call: str, method: Method) -> Method:
    async def answer(request: bytes, context: _Context) -> bytes:
        async with refusing(context):
            return await _answered_here(method, call, request, context)

    return answer


def _answering_in_parts(call: str, method: Method) -> Method:
    async def answer(request: bytes, context: _Context) -> AsyncIterator[bytes]:
        async with refusing(context), contextlib.aclosing(method(_decoded(call, request), context)) as parts:
            async for part in parts:
                yield part.SerializeToString()

    return answer


async def _answered_here(method: Method, call: str, request: bytes, context: _Context) -> bytes:
    answer: bytes = (await method(_decoded(call, request), context)).SerializeToString()
    return answer


def _decoded(call: str, request: bytes) -> Any:
    try:
        return REQUESTS[call].FromString(request)
    except DecodeError:
        raise not_protobuf() from None


def _until(context: _Context) -> float:
    """Returns how long a call may wait for a leader, by the loop's clock.

    That ends before the caller's deadline does, so that the caller learns that the call was not carried out, and why.
    """
    remaining = cast("float | None", context.time_remaining())
    seconds = WAIT_SECONDS if remaining is None else min(max(remaining - TELL_SECONDS, remaining / 2), WAIT_SECONDS)
    return asyncio.get_running_loop().time() + seconds
