"""The methods of a service over a channel that is opened anew when there are new certificates.

gRPC keeps a channel's certificates for as long as the channel lasts, and a callback worker calls over one for days.
Owns its channels. It looks at no files: whoever owns the certificates does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from gowork.base.channels import AddressError, open_channel
from gowork.base.tls import Tls


class _Line:
    __slots__ = ("calls", "channel", "generation", "stub")

    def __init__(self, channel: grpc.aio.Channel, stub: Any, generation: int) -> None:
        self.channel = channel
        self.stub = stub
        #: Of the certificates with which it was opened.
        self.generation = generation
        #: How many calls are under way on it.
        self.calls = 0


class RenewedStub:
    """A stub whose calls begin on a channel with the newest certificates. Those under way end where they began.

    Its attributes are the methods of the stub, all of which take one request and give one answer.
    """

    def __init__(
        self, stub_of: Callable[[grpc.aio.Channel], Any], addresses: Sequence[str], tls: Tls | None = None
    ) -> None:
        """Opens a channel, which connects at its first use.

        Args:
            stub_of: makes the stub of a channel.
            addresses: where the service is, each HOST:PORT.
            tls: the certificates with which it is called; None: plain text.

        Raises:
            AddressError: there are several addresses, and none is known.
        """
        self._stub_of = stub_of
        self._addresses = addresses
        self._tls = tls
        self._line = self._opened()
        #: Lines with old certificates whose calls are still under way.
        self._retired: set[_Line] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in (self._line, *self._retired):
            await line.channel.close()

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def call(request: Any, *, timeout: float) -> Any:
            line = await self._newest()
            line.calls += 1
            try:
                return await getattr(line.stub, name)(request, timeout=timeout)
            finally:
                line.calls -= 1
                if line in self._retired and not line.calls:
                    self._retired.remove(line)
                    await line.channel.close()

        return call

    async def _newest(self) -> _Line:
        old = self._line
        if self._tls is not None and self._tls.generation != old.generation:
            try:
                self._line = self._opened()
            except AddressError:
                # No name can be looked up now. The next call tries again.
                return old
            if old.calls:
                self._retired.add(old)
            else:
                await old.channel.close()
        return self._line

    def _opened(self) -> _Line:
        # Read first: certificates that come in between are those of the next generation.
        generation = self._tls.generation if self._tls is not None else 0
        channel = open_channel(self._addresses, tls=self._tls)
        return _Line(channel, self._stub_of(channel), generation)
