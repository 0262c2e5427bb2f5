"""Stands for the channel of a Client: each call goes to the address that is called now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc

from gowork.base.channels import open_blocking_channel
from gowork.base.rotation import Rotation
from gowork.base.tls import Tls
from gowork.client._channels import LONG_CALLS, Channels, GivenUp, Line
from gowork.client._sync.lookout import Lookout
from gowork.client._sync.submitting import Submitting


class Routes:
    """Has the methods of grpc.Channel that stubs use. A stub that was made once calls every address."""

    def __init__(self, rotation: Rotation, tls: Tls | None = None) -> None:
        self._tls = tls
        self._rotation = rotation
        self._channels: Channels[grpc.Channel] = Channels(
            rotation,
            lambda address, has_others: open_blocking_channel([address], has_others=has_others, tls=tls),
            lambda channel: channel.close(),
            tls,
        )
        self._lookout = Lookout(rotation, self._channels, tls)
        #: What schedules single tasks; None: nothing does yet.
        self._submitting: Submitting | None = None

    def unary_unary(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel. What it returns can only be called for the response."""
        forms = _unregistered(forms)
        routed = self._routed(lambda channel: channel.unary_unary(method, **forms).with_call)
        is_long = method in LONG_CALLS

        def call(request: Any, **keywords: Any) -> Any:
            line, method = routed()
            mark = object()
            line.begin(mark, is_long=is_long)
            self._lookout.look()
            try:
                response, call = method(request, **keywords)
            except grpc.RpcError as error:
                failed = cast("grpc.Call", error)
                self._rotation.hear(failed.trailing_metadata(), failed.initial_metadata())
                raise _noted(line, error) from None
            finally:
                line.end(mark)
            line.hear()
            self._rotation.hear(call.trailing_metadata(), call.initial_metadata())
            return response

        return call

    def started(self, method: str, **forms: Any) -> Callable[..., Any]:
        """Does what `future` of grpc.Channel.unary_unary does, and hears no hints."""
        forms = _unregistered(forms)
        routed = self._routed(lambda channel: channel.unary_unary(method, **forms).future)

        def start(*args: Any, **keywords: Any) -> Any:
            line, method = routed()
            call = method(*args, **keywords)

            def ended(_: object) -> None:
                line.end(call)
                if call.code() is grpc.StatusCode.OK:
                    line.hear()

            line.begin(call)
            call.add_done_callback(ended)
            self._lookout.look()
            return call

        return start

    def unary_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel. What it returns is a StreamCall."""
        forms = _unregistered(forms)
        routed = self._routed(lambda channel: channel.unary_stream(method, **forms))

        def start(*args: Any, **keywords: Any) -> StreamCall:
            line, method = routed()
            call = StreamCall(line, method(*args, **keywords))
            self._lookout.look()
            return call

        return start

    def stream_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel. No client calls it; stubs make it all the same."""

        def start(*args: Any, **keywords: Any) -> Any:
            return self._channels.current().channel.stream_stream(method, **forms)(*args, **keywords)

        return start

    def submitting(self, call: Callable[..., Any], wait_call: Callable[..., Any]) -> Submitting:
        """Returns what schedules single tasks, given what makes ScheduleTask and WaitTask as calls of their own."""
        self._submitting = Submitting(self._rotation, self._channels, self._lookout, call, wait_call, self._tls)
        return self._submitting

    def close(self) -> None:
        """Closes all channels. Calls that are under way fail."""
        self._lookout.close()
        if self._submitting is not None:
            self._submitting.close()
        for channel in self._channels.close():
            channel.close()

    def _routed(
        self, make: Callable[[grpc.Channel], Callable[..., Any]]
    ) -> Callable[[], tuple[Line[grpc.Channel], Callable[..., Any]]]:
        made: tuple[Line[grpc.Channel] | None, Callable[..., Any]] = (None, make)

        def route() -> tuple[Line[grpc.Channel], Callable[..., Any]]:
            nonlocal made
            line = self._channels.current()
            # Threads share `made`, so that it is read once and replaced as a whole.
            known, method = made
            if known is not line:
                method = make(line.channel)
                made = line, method
            return line, method

        return route


class StreamCall:
    """A call with a stream of answers. Iterate it once. Another thread may call `cancel`."""

    def __init__(self, line: Line[grpc.Channel], call: Any) -> None:
        self._line = line
        self._call = call
        line.begin(call, is_long=True)

    def __del__(self) -> None:
        self._line.end(self._call)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            response = next(self._call)
        except grpc.RpcError as error:
            self._line.end(self._call)
            raise _noted(self._line, error) from None
        except StopIteration:
            self._line.end(self._call)
            raise
        self._line.hear()
        return response

    def cancel(self) -> bool:
        """See grpc.RpcContext."""
        self._line.end(self._call)
        return bool(self._call.cancel())


def _unregistered(forms: dict[str, Any]) -> dict[str, Any]:
    """Returns the forms of a method without that by which its channel registers it.

    gRPC registers a method without a look at whether another thread has closed the channel. Then the process dies.
    """
    return {**forms, "_registered_method": False}


def _noted(line: Line[grpc.Channel], error: grpc.RpcError) -> grpc.RpcError:
    """Notes that an answer was an error, and returns the error to raise."""
    if line.is_given_up:
        return GivenUp()
    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
        line.hear()
    return error
