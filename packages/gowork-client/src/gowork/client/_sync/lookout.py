"""Looks whether anybody is there, when nothing comes back from an address, for the blocking client: in a thread.

The thread lives while calls are open. It asks once a second at most, whatever the number of the calls.
"""

from __future__ import annotations

import threading

import grpc

from gowork.base.rotation import Rotation
from gowork.base.succession import Succession
from gowork.base.tls import Tls
from gowork.client import _lookouts as lookouts
from gowork.client._channels import Channels, Line
from gowork.client._lookouts import PING, shows_life


class Lookout:
    """Gives up the calls to an address that is silent, when another leader leads."""

    def __init__(self, rotation: Rotation, channels: Channels[grpc.Channel], tls: Tls | None = None) -> None:
        self._rotation = rotation
        self._channels = channels
        self._succession = Succession(rotation, tls=tls)
        self._closed = threading.Event()
        self._lock = threading.Lock()
        #: Whether the thread runs.
        self._is_on = False

    def look(self) -> None:
        """Keeps a lookout from now on, while calls are open. Call it when a call has begun."""
        if self._is_on or len(self._rotation.addresses) < 2:
            return
        with self._lock:
            if self._closed.is_set() or self._is_on:
                return
            try:
                threading.Thread(target=self._run, name="gowork-lookout", daemon=True).start()
            except RuntimeError:
                # The process has no threads left. A later call tries again.
                return
            self._is_on = True

    def close(self) -> None:
        """Ends the lookout."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(lookouts.LOOK_SECONDS):
            for line in self._channels.open:
                if line.is_silent:
                    self._look_at(line)
            if not self._channels.open:
                break
        self._is_on = False
        # A call that began meanwhile may have seen that it was on.
        if self._channels.open:
            self.look()

    def _look_at(self, line: Line[grpc.Channel]) -> None:
        if self._answers(line):
            line.hear()
            return
        self._succession.ask_blocking(line.address)
        if self._rotation.current != line.address:
            self._channels.give_up(line)

    def _answers(self, line: Line[grpc.Channel]) -> bool:
        try:
            ping: grpc.UnaryUnaryMultiCallable[bytes, bytes] = line.channel.unary_unary(PING)
            ping(b"", timeout=lookouts.PING_SECONDS)
        except grpc.RpcError as error:
            return shows_life(error)
        except ValueError:
            # The client was closed meanwhile.
            return True
        return True
