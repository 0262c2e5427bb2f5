"""Stands for the channel of an AsyncClient: each call goes to the address that is called now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import grpc

from gowork.base.channels import open_channel
from gowork.base.rotation import Rotation
from gowork.base.tls import Tls
from gowork.client._async.cancelling import being_cancelled
from gowork.client._async.lookout import Lookout
from gowork.client._async.submitting import Submitting
from gowork.client._channels import LONG_CALLS, Channels, GivenUp, Line


class Routes:
    """Has the methods of grpc.aio.Channel that stubs use. A stub that was made once calls every address."""

    def __init__(self, rotation: Rotation, tls: Tls | None = None) -> None:
        self._tls = tls
        self._rotation = rotation
        self._channels: Channels[grpc.aio.Channel] = Channels(
            rotation,
            lambda address, has_others: open_channel([address], has_others=has_others, tls=tls),
            # gRPC closes it when its last call has ended and nothing refers to it.
            lambda channel: None,
            tls,
        )
        self._lookout = Lookout(rotation, self._channels, tls)
        #: What schedules single tasks; None: nothing does yet.
        self._submitting: Submitting | None = None

    def unary_unary(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel. What it returns gives no call object: await it for the response."""
        begin = self._routed(lambda channel: channel.unary_unary(method, **forms), is_long=method in LONG_CALLS)

        async def call(request: Any, **keywords: Any) -> Any:
            line, call = begin(request, **keywords)
            try:
                response = await _heard(line, call)
            except grpc.aio.AioRpcError as error:
                self._rotation.hear(error.trailing_metadata(), error.initial_metadata())
                raise
            finally:
                line.end(call)
            self._rotation.hear(await call.trailing_metadata(), await call.initial_metadata())
            return response

        return call

    def started(self, method: str, **forms: Any) -> Callable[..., Any]:
        """Starts a call, as grpc.aio.Channel.unary_unary does, and hears no hints."""
        begin = self._routed(lambda channel: channel.unary_unary(method, **forms))
        return lambda *args, **keywords: _StartedCall(*begin(*args, **keywords))

    def unary_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel. What it returns is a StreamCall."""
        begin = self._routed(lambda channel: channel.unary_stream(method, **forms), is_long=True)
        return lambda *args, **keywords: StreamCall(*begin(*args, **keywords))

    def stream_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel. No client calls it; stubs make it all the same."""

        def start(*args: Any, **keywords: Any) -> Any:
            return self._channels.current().channel.stream_stream(method, **forms)(*args, **keywords)

        return start

    def submitting(self, call: Callable[..., Any], wait_call: Callable[..., Any]) -> Submitting:
        """Returns what schedules single tasks, given what makes ScheduleTask and WaitTask as calls of their own."""
        self._submitting = Submitting(self._rotation, self._channels, self._lookout, call, wait_call, self._tls)
        return self._submitting

    async def close(self) -> None:
        """Closes all channels. Calls that are under way are cancelled."""
        await self._lookout.close()
        if self._submitting is not None:
            await self._submitting.close()
        for channel in self._channels.close():
            await channel.close()

    def _routed(
        self, make: Callable[[grpc.aio.Channel], Callable[..., Any]], *, is_long: bool = False
    ) -> Callable[..., tuple[Line[grpc.aio.Channel], Any]]:
        made: tuple[Line[grpc.aio.Channel] | None, Callable[..., Any]] = (None, make)

        def begin(*args: Any, **keywords: Any) -> tuple[Line[grpc.aio.Channel], Any]:
            nonlocal made
            line = self._channels.current()
            known, method = made
            if known is not line:
                method = make(line.channel)
                made = line, method
            call = method(*args, **keywords)
            line.begin(call, is_long=is_long)
            self._lookout.look()
            return line, call

        return begin


class _StartedCall:
    """A call with one answer that was started: the part of grpc.aio.UnaryUnaryCall that batches use."""

    def __init__(self, line: Line[grpc.aio.Channel], call: Any) -> None:
        self._line = line
        self._call = call
        call.add_done_callback(self._ended)

    def __await__(self) -> Generator[Any, None, Any]:
        return _heard(self._line, self._call).__await__()

    def done(self) -> bool:
        """See grpc.aio.Call."""
        return bool(self._call.done())

    def cancel(self) -> bool:
        """See grpc.aio.Call."""
        return bool(self._call.cancel())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.Call."""
        self._call.add_done_callback(callback)

    def _ended(self, call: Any) -> None:
        self._line.end(call)
        if not call.cancelled():
            self._line.hear()


class StreamCall:
    """A call with a stream of answers: the part of grpc.aio.UnaryStreamCall that waits, watches and backups use."""

    def __init__(self, line: Line[grpc.aio.Channel], call: Any) -> None:
        self._line = line
        self._call = call

    def __del__(self) -> None:
        self._line.end(self._call)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response

    async def read(self) -> Any:
        """See grpc.aio.UnaryStreamCall."""
        try:
            response = await _heard(self._line, self._call.read())
        except BaseException:
            self._line.end(self._call)
            raise
        if response is grpc.aio.EOF:
            self._line.end(self._call)
        return response

    def cancel(self) -> bool:
        """See grpc.aio.Call."""
        self._line.end(self._call)
        return bool(self._call.cancel())


async def _heard(line: Line[grpc.aio.Channel], answer: Awaitable[Any]) -> Any:
    """Waits for an answer, and notes that something came back.

    Raises:
        GivenUp: the lookout has given the call up.
        AioRpcError: the call failed.
    """
    try:
        answered = await answer
    except asyncio.CancelledError:
        if line.is_given_up and not being_cancelled():
            raise GivenUp from None
        raise
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            line.hear()
        raise
    line.hear()
    return answered
