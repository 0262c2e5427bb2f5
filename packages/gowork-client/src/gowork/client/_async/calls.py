"""Makes calls with one response: again while no leader takes them, and only if the leader knows all their fields.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from gowork.client._async.connection import Connection
from gowork.client._async.threads import blocking
from gowork.client._calls import CallSettings, Tries
from gowork.client._leader_fields import THE_ORIGINAL, LeaderFields, Told, needs_asking
from gowork.client.errors import CallError, LeaderTooOld, LeaderUnreachable
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT")


class Calls:
    """Makes the calls of one client, and knows which fields its leader reads."""

    def __init__(self, connection: Connection, settings: CallSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._told = Told()

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Makes the call. Before a request that an old leader may not know, it asks the leader which fields it reads.

        Raises:
            LeaderTooOld: when the leader lacks the method, or a field of the request.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        if needs_asking(request):
            leader = await self._leader()
            leader.check(request, self._settings.address)
        return await self.send(method, request)

    async def send(self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Makes a call whose fields every leader that has the method knows.

        Raises:
            LeaderTooOld: when the leader lacks the method.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        try:
            return await self._try(method, request)
        except LeaderTooOld:
            raise await self.too_old(type(request).__name__.removesuffix("Request")) from None

    async def send_once(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        """Does what `send` does, but makes the call again only if no leader has carried it out.

        Raises:
            CallError: as for `send`; LeaderUnreachable also when a leader may have carried it out.
        """
        try:
            return await self._try(method, request, is_repeatable=False)
        except LeaderTooOld:
            raise await self.too_old(type(request).__name__.removesuffix("Request")) from None

    async def fit(self, fit: Callable[[LeaderFields], None]) -> LeaderFields:
        """Calls `fit` with the fields that the leader reads, and returns these.

        Raises:
            LeaderTooOld: when `fit` raised it, also with fields that the leader was asked for anew.
            CallError: when the leader refused, or could not be reached.
        """
        try:
            fit(leader := await self._leader())
        except LeaderTooOld:
            # The leader may have been upgraded since it was asked.
            fit(leader := await self._ask_leader())
        return leader

    async def too_old(self, method: str) -> LeaderTooOld:
        """Makes the error for a method that the leader lacks, with the leader's version if it can be asked."""
        version: str | None
        try:
            leader = await self._leader()
            version = leader.version
        except CallError:
            version = None
        return LeaderTooOld.without_method(method, version, self._settings.address, self._settings.told_by_each())

    async def _try(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        is_repeatable: bool = True,
    ) -> ResponseT:
        tries = Tries(self._settings, is_repeatable=is_repeatable)
        while True:
            address = self._settings.rotation.current
            try:
                return await method(request, timeout=tries.left())
            except grpc.RpcError as error:
                try:
                    pause = tries.pause_after(error, address)
                except LeaderUnreachable as unreachable:
                    raise await blocking(self._settings.explained, unreachable) from None
                # The next leader may have another version.
                self._told.forget()
            except ValueError:
                # So gRPC calls a channel that another thread has closed since it was looked at.
                self._settings.check_open()
                raise
            await asyncio.sleep(pause)

    async def _leader(self) -> LeaderFields:
        """Returns which fields the leader reads, from memory if it was asked lately."""
        return self._told.get() or await self._ask_leader()

    async def _ask_leader(self) -> LeaderFields:
        try:
            told = LeaderFields.told(
                await self._try(self._connection.scheduler.GetLeader, scheduler.GetLeaderRequest())
            )
        except LeaderTooOld:
            try:
                activity = await self._try(self._connection.scheduler.Activity, scheduler.ActivityRequest())
                told = LeaderFields.before_0_2_0(activity.version)
            except LeaderTooOld:
                told = THE_ORIGINAL
        return self._told.put(told)
