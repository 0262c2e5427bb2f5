"""The thread that keeps a lease alive, at an etcd that wants a token with each keepalive, as etcd 3.7 does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc
from gowork.leader.log._etcd.endpoints import Endpoints
from gowork.leader.log._etcd.lease import Keeper
from gowork.leader.log.holding import OwnLease, boot_seconds

PATIENCE = 15.0
LEASE_SECONDS = 3.0


class Member(rpc.LeaseServicer, rpc.AuthServicer):
    """A member that takes keepalives with one token alone."""

    def __init__(self) -> None:
        self.token = "the first"
        #: The user and password of each question for a token.
        self.asked: list[tuple[str, str]] = []

    def LeaseKeepAlive(
        self, requests: Iterator[pb.LeaseKeepAliveRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.LeaseKeepAliveResponse]:
        if ("token", self.token) not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
        for request in requests:
            yield pb.LeaseKeepAliveResponse(ID=request.ID, TTL=3)

    def Authenticate(self, request: pb.AuthenticateRequest, context: grpc.ServicerContext) -> pb.AuthenticateResponse:
        self.asked.append((request.name, request.password))
        return pb.AuthenticateResponse(token=self.token)


class NotedLease(OwnLease):
    """A lease that lets a test wait for the next renewal."""

    def __init__(self) -> None:
        super().__init__(LEASE_SECONDS, boot_seconds())
        self._loop = asyncio.get_running_loop()
        self.renewals = asyncio.Semaphore(0)
        self.is_over = False

    def end(self) -> None:
        self.is_over = True
        self.renewals.release()

    def renewed(self, sent: float) -> None:
        super().renewed(sent)
        self._loop.call_soon_threadsafe(self.renewals.release)


@contextmanager
def serving(member: Member) -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        rpc.add_LeaseServicer_to_server(member, server)
        rpc.add_AuthServicer_to_server(member, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield address
        finally:
            server.stop(None).wait()


async def test_a_lease_is_kept_with_another_token_when_the_member_has_forgotten_the_first() -> None:
    member = Member()
    with serving(member) as address:
        own = NotedLease()
        keeper = Keeper(Endpoints((address,), user="gowork", password="a password"), 7, own, own.end, member.token)
        try:
            async with asyncio.timeout(PATIENCE):
                await own.renewals.acquire()
                assert member.asked == []
                member.token = "the second"
                # The first one may have been under way.
                await own.renewals.acquire()
                await own.renewals.acquire()
        finally:
            keeper.stop()
        assert member.asked == [("gowork", "a password")]
        assert not own.is_over


async def test_a_keeper_without_a_token_asks_for_one() -> None:
    member = Member()
    with serving(member) as address:
        own = NotedLease()
        keeper = Keeper(Endpoints((address,), user="gowork", password="a password"), 7, own, lambda: None)
        try:
            async with asyncio.timeout(PATIENCE):
                await own.renewals.acquire()
        finally:
            keeper.stop()
        assert member.asked == [("gowork", "a password")]
