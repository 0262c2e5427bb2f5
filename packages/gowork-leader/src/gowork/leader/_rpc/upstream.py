"""The connections of a node to the leader that it forwards calls to.

Owns what is known of that leader: whether it is connected, and whether it has said that it leads. Calls are sent only
then, so that few are sent in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc

from gowork.base.channels import CONNECTION_CALLS_MAX, Option, open_channel
from gowork.base.tls import Tls
from gowork.leader._access.metadata import FORWARDED
from gowork.leader._rpc.endings import Endings
from gowork.leader._rpc.hops import NOT_LEADER, handed_back, handed_on, hint
from gowork.leader._rpc.services import HEARTBEAT, SESSION, Port
from gowork.proto.status import Refusal, refusal_of

#: How long the question whether it leads may take, in seconds, and how long to wait before it is asked again.
ASK_SECONDS = 2.0
ASK_AGAIN_SECONDS = 0.05
#: How often it is asked while the log does not say who leads, in seconds.
CONFIRM_SECONDS = 1.0
#: How many sessions may go over one connection. Further ones are refused, because gRPC would hold them back in silence.
SESSIONS_MAX = CONNECTION_CALLS_MAX
#: How many bytes of answers a stream may receive before its caller reads them. With gRPC's default they could become
#: megabytes for each stream.
_OPTIONS: tuple[Option, ...] = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 << 10))
#: Which connection a call goes over; all others go over _REST. Each of those listed may have as many calls open as a
#: connection takes.
_LINES = {
    SESSION: "sessions",
    "scheduler.v1.SchedulerService/WaitTask": "waits",
    "scheduler.v1.SchedulerService/WaitTasks": "waits",
}
_REST = "rest"

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RefusedUnread(Exception):
    """The leader has refused a call before it did anything with it. It may be sent again."""


class LeaderLost(Exception):
    """The connection to the leader ended before it answered. Whether the call was carried out is unknown."""


class Upstream:
    """One leader, as another node sees it. Run it, and close it once.

    Args:
        addresses: where the leader serves: {port: HOST:PORT}.
        changed: is called when `leads` changes.
        tls: the certificates with which it is called; None: plain text.
    """

    def __init__(self, addresses: Mapping[Port, str], changed: Callable[[], None], tls: Tls | None = None) -> None:
        self.addresses = addresses
        self._changed = changed
        #: Whether it is connected, and has said that it leads.
        self.leads = False
        self._tls = tls
        self._channels = self._open()
        #: Is set while nobody else says that it leads.
        self.unconfirmed = asyncio.Event()
        self._connected = asyncio.Event()
        self._doubted = asyncio.Event()
        self._closed = False
        #: {the asyncio task that serves a stream: the stream's context}
        self._streams: dict[asyncio.Task[Any], _Context] = {}
        self._sessions = 0
        self._endings = Endings()

    async def run(self) -> None:
        """Keeps `leads` up to date until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name="watch the connection to the leader")
            group.create_task(self._confirm(), name="confirm that the leader leads")
            while True:
                await self._connected.wait()
                self._doubted.clear()
                if not await self._asked():
                    await asyncio.sleep(ASK_AGAIN_SECONDS)
                    continue
                if self._connected.is_set():
                    self._set(leads=True)
                    await self._doubted.wait()

    def doubt(self) -> None:
        """Sends nothing more until the leader has said again that it leads."""
        self._set(leads=False)
        self._doubted.set()

    async def close(self, refusal: Refusal, seconds: float) -> None:
        """Ends the streams at once and the other calls after a while. Sends nothing from now on.

        Args:
            refusal: what the callers of streams are told.
            seconds: how long the other calls may go on. Those that are late end with LeaderLost.
        """
        self._closed = True
        self._set(leads=False)
        for serving, context in list(self._streams.items()):
            self._endings.end(serving, context, refusal)
        async with asyncio.TaskGroup() as group:
            for channel in self._channels.values():
                group.create_task(channel.close(seconds))

    async def ask(self, call: str, request: bytes, port: Port, context: _Context) -> bytes:
        """Forwards a call with one answer, and returns the answer.

        Raises:
            RefusedUnread, LeaderLost.
            AioRpcError: the leader's refusal.
        """
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel(call).unary_unary(f"/{call}")
        begun = method(request, timeout=context.time_remaining(), metadata=handed_on(context))
        try:
            answer = await begun
        except grpc.aio.AioRpcError as error:
            raise self._told(error) from None
        except asyncio.CancelledError:
            serving = asyncio.current_task()
            if self._closed and serving is not None and not serving.cancelling():
                # The channel was closed. The caller has not given up.
                raise LeaderLost from None
            raise
        if call != HEARTBEAT:
            await hint(context, self.addresses[port])
            _hand_back(await begun.trailing_metadata(), context)
        return answer

    async def follow(self, call: str, requests: Any, port: Port, context: _Context) -> AsyncGenerator[bytes, None]:
        """Forwards a call with a stream of answers, and yields the answers.

        Args:
            call: the call's name.
            requests: the request, as bytes, or the iterator of requests.
            port: the port that was called.
            context: the call's context.

        Raises:
            RefusedUnread, LeaderLost.
            Refusal: too many sessions are forwarded.
            AioRpcError: the leader's refusal.
        """
        channel, is_one = self._channel(call), isinstance(requests, bytes)
        method: Any = channel.unary_stream(f"/{call}") if is_one else channel.stream_stream(f"/{call}")
        with self._serving(call, context):
            begun: Any = method(requests, timeout=context.time_remaining(), metadata=handed_on(context))
            del requests
            try:
                hinted = False
                async for answer in begun:
                    if not hinted:
                        await hint(context, self.addresses[port])
                        hinted = True
                    yield answer
                    # Freed before the wait for the next one.
                    del answer
                _hand_back(await begun.trailing_metadata(), context)
            except grpc.aio.AioRpcError as error:
                raise self._told(error) from None
            finally:
                begun.cancel()

    async def _watch(self) -> None:
        channel = self._channels[_REST]
        for other in self._channels.values():
            other.get_state(try_to_connect=True)
        while True:
            state = channel.get_state(try_to_connect=True)
            if state is not grpc.ChannelConnectivity.READY and self._generation != self._newest:
                # The next connection begins with the new certificates. What is open on the old ones goes on.
                self._channels = self._open()
                channel = self._channels[_REST]
                continue
            if state is grpc.ChannelConnectivity.READY:
                self._connected.set()
            else:
                self._connected.clear()
                self.doubt()
            await channel.wait_for_state_change(state)

    async def _confirm(self) -> None:
        """Doubts a leader that no longer says that it leads, for as long as nobody else would say so."""
        while True:
            await self.unconfirmed.wait()
            await asyncio.sleep(CONFIRM_SECONDS)
            if self.leads and self.unconfirmed.is_set() and not await self._asked():
                self.doubt()

    async def _asked(self) -> bool:
        # A heartbeat of nobody: a leader refuses it as invalid, without a batch, and no span is made of it.
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channels[_REST].unary_unary(f"/{HEARTBEAT}")
        try:
            await method(b"", timeout=ASK_SECONDS, metadata=((FORWARDED, "none"),))
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.INVALID_ARGUMENT
        return False

    def _open(self) -> dict[str, grpc.aio.Channel]:
        self._generation = self._newest
        address = self.addresses[Port.CLUSTER]
        return {line: open_channel([address], _OPTIONS, tls=self._tls) for line in (*_LINES.values(), _REST)}

    @property
    def _newest(self) -> int:
        return self._tls.generation if self._tls is not None else 0

    def _set(self, *, leads: bool) -> None:
        if leads != self.leads:
            self.leads = leads
            self._changed()

    def _channel(self, call: str) -> grpc.aio.Channel:
        return self._channels[_LINES.get(call, _REST)]

    @contextmanager
    def _serving(self, call: str, context: _Context) -> Iterator[None]:
        if call == SESSION and self._sessions >= SESSIONS_MAX:
            message = f"{self._sessions} streams of workers are forwarded here, which is the limit; try another leader"
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS", message)
        serving = asyncio.current_task()
        assert serving is not None
        self._streams[serving] = context
        self._sessions += call == SESSION
        try:
            yield
        finally:
            self._sessions -= call == SESSION
            del self._streams[serving]

    def _told(self, error: grpc.aio.AioRpcError) -> Exception:
        """Returns what an error of the leader, or of the connection to it, means."""
        refusal = refusal_of(error)
        if refusal.code is grpc.StatusCode.UNAVAILABLE and refusal.reason == NOT_LEADER:
            self.doubt()
            return RefusedUnread()
        if refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and not refusal.is_said:
            self.doubt()
            return LeaderLost()
        return error


def _hand_back(trailing: Any, context: _Context) -> None:
    metadata = handed_back(trailing)
    if metadata:
        context.set_trailing_metadata(metadata)
