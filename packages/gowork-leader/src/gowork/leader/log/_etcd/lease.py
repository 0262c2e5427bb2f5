"""Keeps a lease of etcd alive, in a thread and over a connection of its own, so that no load delays it.

The own lease is counted from the sending of the last keepalive that was answered, and is shorter than etcd's by a
tenth. So it ends here before it ends there, as long as both clocks run at about the same speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import cast

import grpc

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc
from gowork.leader.log._etcd.endpoints import Endpoints
from gowork.leader.log.holding import OwnLease

_log = logging.getLogger(__name__)

#: How long one keepalive may be under way, in seconds.
_ATTEMPT_SECONDS = 1.0


class Keeper:
    """Keeps one lease alive until it is stopped or fails.

    Args:
        endpoints: the members of etcd.
        lease: the lease's number.
        own: is told of each keepalive that was answered.
        over: is called once, on the loop that makes the keeper, when the lease is gone or its time is over.
        token: who this program is, for etcd; empty: it is asked for, where etcd has users.
    """

    def __init__(
        self, endpoints: Endpoints, lease: int, own: OwnLease, over: Callable[[], None], token: str = ""
    ) -> None:
        self._endpoints = endpoints
        self._lease = lease
        self._own = own
        self._over = over
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gowork-etcd-lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        channels: dict[str, grpc.Channel] = {}
        try:
            self._keep(channels)
        except Exception:  # noqa: BLE001 - the lease then ends, as it must
            _log.exception("keeping the lease failed")
        finally:
            for channel in channels.values():
                channel.close()
        if not self._stopped.is_set():
            # When the loop is closed, nobody leads any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._over)

    def _keep(self, channels: dict[str, grpc.Channel]) -> None:
        """Returns when the lease is over, or it is stopped."""
        tried = 0
        while True:
            address = self._endpoints.addresses[tried % len(self._endpoints.addresses)]
            if address not in channels:
                channels[address] = self._endpoints.blocking_channel(address)
            sent = self._own.now()
            if sent >= self._own.until:
                return
            try:
                left = self._attempt(channels[address], min(_ATTEMPT_SECONDS, self._own.until - sent))
            except grpc.RpcError as error:
                if self._endpoints.has_old_token(cast("grpc.Call", error).details() or ""):
                    self._token = ""
                else:
                    tried += 1
                left = -1
                wait = self._own.interval / 5
            else:
                wait = self._own.interval
            if left == 0:
                # The lease has ended, or was revoked.
                return
            if left > 0:
                self._own.renewed(sent)
            if self._stopped.wait(min(wait, max(self._own.until - self._own.now(), 0.0))):
                return

    def _attempt(self, channel: grpc.Channel, seconds: float) -> int:
        """Sends one keepalive, and returns how many seconds the lease has; 0 when it is gone."""
        if self._endpoints.user and not self._token:
            request = pb.AuthenticateRequest(name=self._endpoints.user, password=self._endpoints.password)
            self._token = rpc.AuthStub(channel).Authenticate(request, timeout=seconds).token
        # A stream for each, because a stream that has gone silent would have to be found out.
        call = rpc.LeaseStub(channel).LeaseKeepAlive(
            iter([pb.LeaseKeepAliveRequest(ID=self._lease)]),
            timeout=seconds,
            metadata=(("token", self._token),) if self._token else (),
        )
        for answer in call:
            return max(int(answer.TTL), 0)
        return -1
