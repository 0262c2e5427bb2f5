"""The channels of one client: one for each address that it has called, and the choice of the one to call now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from gowork.base.channels import ADDRESSES_MAX
from gowork.base.rotation import Rotation

#: How many channels a client has: for its addresses, and for earlier ones, on which streams may still be open.
CHANNELS_MAX = 2 * ADDRESSES_MAX

ChannelT = TypeVar("ChannelT")


class Channels(Generic[ChannelT]):
    """Opens a channel when its address is called for the first time. Threads may share it."""

    def __init__(
        self, rotation: Rotation, opens: Callable[[str, bool], ChannelT], drops: Callable[[ChannelT], object]
    ) -> None:
        """Args:
        rotation: which address to call.
        opens: opens the channel to an address. Its second argument says whether there are other addresses.
        drops: called with a channel that is not used any more because there are too many.
        """
        self._rotation = rotation
        self._opens = opens
        self._drops = drops
        #: {address: its channel}, the oldest first
        self._channels: dict[str, ChannelT] = {}
        self._lock = threading.Lock()
        self._closed = False

    def current(self) -> ChannelT:
        """Returns the channel to the address that is called now.

        Raises:
            ValueError: when `close` was called.
        """
        address = self._rotation.current
        return self._channels.get(address) or self._open(address)

    def close(self) -> list[ChannelT]:
        """Returns all channels, for the caller to close. No further one is opened."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
            self._channels = {}
        return channels

    def _open(self, address: str) -> ChannelT:
        self._rotation.refresh()
        with self._lock:
            if self._closed:
                # As gRPC says it of a channel.
                raise ValueError("Cannot invoke RPC on closed channel!")
            if address not in self._channels:
                known: Sequence[str] = self._rotation.addresses
                if len(self._channels) >= CHANNELS_MAX:
                    self._drops(self._channels.pop(next(each for each in self._channels if each not in known)))
                self._channels[address] = self._opens(address, len(known) > 1 or address not in known)
            return self._channels[address]
