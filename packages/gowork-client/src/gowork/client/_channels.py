"""The channels of one client: one for each address that it has called, and the choice of the one to call now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import grpc

from gowork.base.channels import ADDRESSES_MAX
from gowork.base.rotation import Rotation
from gowork.base.tls import Tls

#: How many channels a client has: for its addresses, and for earlier ones, on which streams may still be open.
CHANNELS_MAX = 2 * ADDRESSES_MAX
#: How long nothing may come back from an address while a call waits for its answer, in seconds, until the client looks
#: whether anybody is there; and the same while only calls that may be silent for long are open.
SILENCE_SECONDS = 1.0
LONG_SILENCE_SECONDS = 3.0
#: Calls with one answer that may be silent for long.
LONG_CALLS = frozenset({"/scheduler.v1.SchedulerService/WaitTask"})

ChannelT = TypeVar("ChannelT")


class GivenUp(grpc.RpcError):
    """A call was given up, because its address is silent and another leader leads. It has the form of gRPC's errors."""

    def code(self) -> grpc.StatusCode:
        """As of a connection that broke: the call may have been carried out."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Why it was given up."""
        return "nothing came back, and another leader leads now"

    def trailing_metadata(self) -> tuple[()]:
        """There is none."""
        return ()


class Line(Generic[ChannelT]):
    """A channel to one address, the calls that are open on it, and for how long nothing has come back on it.

    Threads may share it.
    """

    __slots__ = ("_calls", "_is_answered", "_long_calls", "_since", "address", "channel", "is_given_up")

    def __init__(self, address: str, channel: ChannelT) -> None:
        self.address = address
        self.channel = channel
        #: Whether its calls were given up, because the address is silent and another leader leads.
        self.is_given_up = False
        self._calls: set[object] = set()
        self._long_calls: set[object] = set()
        #: Since when nothing has come back, and whether nothing was asked then either.
        self._since = 0.0
        self._is_answered = True

    @property
    def open(self) -> list[object]:
        """The calls that are open."""
        return [*self._calls, *self._long_calls]

    @property
    def is_open(self) -> bool:
        """Whether calls are open."""
        return bool(self._calls or self._long_calls)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come back for too long, while calls are open."""
        if not self.is_open:
            return False
        return time.monotonic() - self._since >= (SILENCE_SECONDS if self._calls else LONG_SILENCE_SECONDS)

    def begin(self, call: object, *, is_long: bool = False) -> None:
        """Notes that a call is open, or whatever stands for it; `is_long` when it may be silent for long."""
        if self._is_answered and not self.is_open:
            self._since, self._is_answered = time.monotonic(), False
        (self._long_calls if is_long else self._calls).add(call)

    def end(self, call: object) -> None:
        """Notes that a call is over. Harmless when repeated."""
        self._calls.discard(call)
        self._long_calls.discard(call)

    def hear(self) -> None:
        """Notes that something came back."""
        self._since, self._is_answered = time.monotonic(), True


#: For how long a channel that no call begins on any more is kept, in seconds: another thread may be about to call.
_RETIRED_SECONDS = 5.0


class Channels(Generic[ChannelT]):
    """Opens a channel when its address is called for the first time. Threads may share it."""

    def __init__(
        self,
        rotation: Rotation,
        opens: Callable[[str, bool], ChannelT],
        drops: Callable[[ChannelT], object],
        tls: Tls | None = None,
    ) -> None:
        """Args:
        rotation: which address to call.
        opens: opens the channel to an address. Its second argument says whether there are other addresses.
        drops: called with a channel that is not used any more.
        tls: the certificates of the channels. When there are new ones, new channels are opened.
        """
        self._rotation = rotation
        self._opens = opens
        self._drops = drops
        self._tls = tls
        self._generation = 0
        #: {address: the line to it}, the oldest first
        self._lines: dict[str, Line[ChannelT]] = {}
        #: The lines with old certificates on which calls are open.
        self._retired: list[Line[ChannelT]] = []
        self._retired_at = 0.0
        self._lock = threading.Lock()
        self._closed = False

    def current(self) -> Line[ChannelT]:
        """Returns the line to the address that is called now.

        Raises:
            ValueError: when `close` was called.
        """
        if self._tls is not None:
            self._renew(self._tls)
        address = self._rotation.current
        return self._lines.get(address) or self._open(address)

    @property
    def open(self) -> list[Line[ChannelT]]:
        """The lines on which calls are open."""
        return [line for line in (*list(self._lines.values()), *self._retired) if line.is_open]

    def give_up(self, line: Line[ChannelT]) -> None:
        """Drops a line. The next call of its address opens another one."""
        with self._lock:
            if self._lines.get(line.address) is line:
                del self._lines[line.address]
            self._retired = [each for each in self._retired if each is not line]
        line.is_given_up = True
        self._drops(line.channel)

    def close(self) -> list[ChannelT]:
        """Returns all channels, for the caller to close. No further one is opened."""
        with self._lock:
            self._closed = True
            lines = [*self._lines.values(), *self._retired]
            self._lines, self._retired = {}, []
        return [line.channel for line in lines]

    def _renew(self, tls: Tls) -> None:
        """Begins no call any more on channels whose certificates are old. They are dropped when their calls end."""
        tls.refresh()
        if tls.generation == self._generation and not self._retired:
            return
        with self._lock:
            if tls.generation != self._generation:
                self._generation = tls.generation
                self._retired += self._lines.values()
                self._lines = {}
                self._retired_at = time.monotonic()
            if time.monotonic() - self._retired_at < _RETIRED_SECONDS:
                return
            unused = [line for line in self._retired if not line.is_open]
            self._retired = [line for line in self._retired if line.is_open]
        for line in unused:
            self._drops(line.channel)

    def _open(self, address: str) -> Line[ChannelT]:
        self._rotation.refresh()
        with self._lock:
            if self._closed:
                # As gRPC says it of a channel.
                raise ValueError("Cannot invoke RPC on closed channel!")
            if address not in self._lines:
                known: Sequence[str] = self._rotation.addresses
                if len(self._lines) >= CHANNELS_MAX:
                    self._drops(self._lines.pop(next(each for each in self._lines if each not in known)).channel)
                channel = self._opens(address, len(known) > 1 or address not in known)
                self._lines[address] = Line(address, channel)
            return self._lines[address]
