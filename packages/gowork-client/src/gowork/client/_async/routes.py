"""Stands for the channel of an AsyncClient: each call goes to the address that is called now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from gowork.base.channels import open_channel
from gowork.base.rotation import Rotation
from gowork.client._channels import Channels


class Routes:
    """Has the methods of grpc.aio.Channel that stubs use. A stub that was made once calls every address."""

    def __init__(self, rotation: Rotation) -> None:
        self._rotation = rotation
        self._channels: Channels[grpc.aio.Channel] = Channels(
            rotation,
            lambda address, has_others: open_channel([address], has_others=has_others),
            # gRPC closes it when its last call has ended and nothing refers to it.
            lambda channel: None,
        )

    def unary_unary(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel. What it returns gives no call object: await it for the response."""
        started = self.started(method, **forms)

        async def call(request: Any, **keywords: Any) -> Any:
            call = started(request, **keywords)
            try:
                response = await call
            except grpc.aio.AioRpcError as error:
                self._rotation.hear(error.trailing_metadata(), error.initial_metadata())
                raise
            self._rotation.hear(await call.trailing_metadata(), await call.initial_metadata())
            return response

        return call

    def started(self, method: str, **forms: Any) -> Callable[..., Any]:
        """Does what grpc.aio.Channel.unary_unary does, and hears no hints."""
        return self._routed(lambda channel: channel.unary_unary(method, **forms))

    def unary_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel."""
        return self._routed(lambda channel: channel.unary_stream(method, **forms))

    def stream_stream(self, method: str, **forms: Any) -> Callable[..., Any]:
        """See grpc.aio.Channel."""
        return self._routed(lambda channel: channel.stream_stream(method, **forms))

    async def close(self) -> None:
        """Closes all channels. Calls that are under way are cancelled."""
        for channel in self._channels.close():
            await channel.close()

    def _routed(self, make: Callable[[grpc.aio.Channel], Callable[..., Any]]) -> Callable[..., Any]:
        made: tuple[grpc.aio.Channel | None, Callable[..., Any]] = (None, make)

        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal made
            channel = self._channels.current()
            known, method = made
            if known is not channel:
                method = make(channel)
                made = channel, method
            return method(*args, **keywords)

        return call
