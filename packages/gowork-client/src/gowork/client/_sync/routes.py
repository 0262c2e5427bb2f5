"""Stands for the channel of a Client: each call goes to the address that is called now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import grpc

from gowork.base.channels import open_blocking_channel
from gowork.base.rotation import Rotation
from gowork.client._channels import Channels


class Routes:
    """Has the methods of grpc.Channel that stubs use. A stub that was made once calls every address."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._channels: Channels[grpc.Channel] = Channels(
            rotation,
            lambda address, has_others: open_blocking_channel([address], has_others=has_others),
            lambda channel: channel.close(),
        )

    def unary_unary(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel. What it returns can only be called for the response."""
        routed = self._routed(lambda channel: channel.unary_unary(method, **forms).with_call)

        def call(request: Any, **keywords: Any) -> Any:
            try:
                response, call = routed(request, **keywords)
            except grpc.RpcError as error:
                failed = cast("grpc.Call", error)
                self._rotation.hear(failed.trailing_metadata(), failed.initial_metadata())
                raise
            self._rotation.hear(call.trailing_metadata(), call.initial_metadata())
            return response

        return call

    def started(self, method: str, **forms: Any) -> Callable[..., Any]:
        """Does what `future` of grpc.Channel.unary_unary does, and hears no hints."""
        return self._routed(lambda channel: channel.unary_unary(method, **forms).future)

    def unary_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel."""
        return self._routed(lambda channel: channel.unary_stream(method, **forms))

    def stream_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.Channel."""
        return self._routed(lambda channel: channel.stream_stream(method, **forms))

    def close(self) -> None:
        """Closes all channels. Calls that are under way fail."""
        for channel in self._channels.close():
            channel.close()

    def _routed(self, make: Callable[[grpc.Channel], Callable[..., Any]]) -> Callable[..., Any]:
        made: tuple[grpc.Channel | None, Callable[..., Any]] = (None, make)

        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal made
            channel = self._channels.current()
            # Threads share `made`, so that it is read once and replaced as a whole.
            known, method = made
            if known is not channel:
                method = make(channel)
                made = channel, method
            return method(*args, **keywords)

        return call
