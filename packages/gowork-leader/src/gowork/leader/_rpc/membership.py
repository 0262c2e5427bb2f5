"""Answers cluster.v1.LeaderService: callback workers join, send heartbeats and leave; members are listed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

import grpc

from gowork.base.channels import parse_address
from gowork.base.identities import Role
from gowork.leader._access.access import Access
from gowork.leader._access.rights import CALLER, caller_name
from gowork.leader._core import commands as cmd
from gowork.leader._core.queries import members
from gowork.leader._core.state import State
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.heartbeats import HeartbeatStream
from gowork.leader._rpc.mapping import heartbeat_from, member_message
from gowork.leader._rpc.tokens import make_id_token, read_id_token
from gowork.leader._rpc.validation import (
    Violations,
    check_address,
    check_budget,
    check_heartbeat,
    check_id,
    check_page_size,
    require_id,
)
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import Refusal, invalid

_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[object, object]


class Membership:
    """Answers the calls of the original contract on members."""

    def __init__(self, engine: Engine, access: Access | None = None) -> None:
        """`access` says where callback workers may be; None: anywhere."""
        self._engine = engine
        self._access = access
        self._heartbeats: set[HeartbeatStream[pb.HeartbeatRequest]] = set()

    def end_all(self, because: str) -> None:
        """Ends all streams of heartbeats, so that their members look for a leader.

        Args:
            because: what the members are told.
        """
        for stream in self._heartbeats:
            stream.end(Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", because))

    async def dismiss(self, access: Access) -> None:
        """Has members leave that may no longer be there, so that they are given no more tasks."""

        def look(state: State) -> list[tuple[str, str, str]]:
            return [(each.id, each.owner, each.address) for each in state.callbacks.values()]

        for id, owner, address in await self._engine.read(look):
            if not access.may_stay(owner, parse_address(address)[0]):
                _log.warning("member dismissed", extra={"member": id, "owner": owner, "address": address})
                # It may have left by itself meanwhile.
                with contextlib.suppress(RefusedError):
                    await self._engine.ask(cmd.Leave(id))

    async def Join(self, request: pb.JoinRequest, context: _Context) -> pb.JoinResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_address(request.address, "address", violations)
            if violations:
                raise invalid(violations)
            if self._access is not None and not self._access.may_join_from(parse_address(request.address)[0]):
                message = f"the leader's access file has no join_networks for {request.address}"
                raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "ADDRESS_NOT_ALLOWED", message)
            await self._engine.ask(cmd.Join(request.id, request.address, caller_name()))
        return pb.JoinResponse()

    async def Leave(self, request: pb.LeaveRequest, context: _Context) -> pb.LeaveResponse:
        async with refusing(context):
            require_id(request.id)
            caller = CALLER.get()
            # An administrator speaks for every member.
            is_admin = caller is not None and Role.ADMIN in caller.roles
            await self._engine.ask(cmd.Leave(request.id, "" if is_admin else caller_name()))
        return pb.LeaveResponse()

    async def Heartbeat(
        self, request_iterator: AsyncIterator[pb.HeartbeatRequest], context: _Context
    ) -> AsyncIterator[pb.HeartbeatResponse]:
        async with refusing(context):
            stream = HeartbeatStream(request_iterator)
            self._heartbeats.add(stream)
            try:
                async for response in stream.responses(self._hear):
                    yield response
            finally:
                self._heartbeats.discard(stream)

    async def Drain(self, request: pb.DrainRequest, context: _Context) -> pb.DrainResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_budget(request.budget_ms, violations)
            if violations:
                raise invalid(violations)
            await self._engine.ask(cmd.DrainMember(request.id, request.budget_ms))
        return pb.DrainResponse()

    async def Members(self, request: pb.MembersRequest, context: _Context) -> pb.MembersResponse:
        async with refusing(context):
            violations: Violations = []
            check_page_size(request.page_size, violations)
            if violations:
                raise invalid(violations)
            scope = (self._engine.opened.identity, "members")
            after = read_id_token(request.page_token, "page_token", *scope) if request.page_token else ""
            # A page goes on after an id and not after a number, because members come and go between two pages. No id is
            # empty.
            views = [view for view in await self._engine.read(members) if view.id > after]
            response, size = pb.MembersResponse(), 0
            for view in views[: request.page_size or limits.PAGE_ITEMS_MAX]:
                message = member_message(view)
                size += message.ByteSize() + 5
                if size > limits.PAGE_BYTES_MAX and response.members:
                    break
                response.members.append(message)
            if len(response.members) < len(views):
                if request.page_size:
                    response.next_page_token = make_id_token(response.members[-1].id, *scope)
                else:
                    context.set_trailing_metadata((("gowork-truncated", "true"),))
        return response

    async def _hear(self, request: pb.HeartbeatRequest) -> None:
        violations: Violations = []
        check_id(request.id, "id", violations)
        check_heartbeat(request.status, violations)
        if violations:
            raise invalid(violations)
        await self._engine.ask(heartbeat_from(request))
