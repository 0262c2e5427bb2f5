"""Calls of scheduler.v1.SchedulerService about groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from msgspec import Struct

from gowork.leader._core import commands as cmd
from gowork.leader._core.dependents import Children
from gowork.leader._core.groups import state_of
from gowork.leader._core.model import AfterRule, Standing
from gowork.leader._core.state import State
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.tokens import make_id_token, read_id_token
from gowork.leader._rpc.validation import Violations, check_children, check_id, check_page_size, require_id
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Store
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal, invalid

_Context = grpc.aio.ServicerContext[Any, Any]


class _Found(Struct, frozen=True):
    """A group that has not ended."""

    id: str
    rule: AfterRule
    state: cmd.GroupState
    #: Where its task stands, if that is in memory.
    standing: Standing | None


class Groups:
    """Answers the calls about groups."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def SealGroup(self, request: pb.SealGroupRequest, context: _Context) -> pb.SealGroupResponse:
        async with refusing(context):
            violations: Violations = []
            check_id(request.id, "id", violations)
            check_children(request, "children", violations)
            if violations:
                raise invalid(violations)
            children = request.children if request.HasField("children") else None
            try:
                await self._engine.ask(cmd.SealGroup(request.id, children))
            except RefusedError as error:
                if error.refused.code is not cmd.GROUP_UNKNOWN:
                    raise
                # It may have been sealed by the same call before, and have ended since.
                group = await self._get(request.id)
                if children not in (None, group.expected):
                    message = f"group {request.id!r} ended with {group.expected} children, and can't have {children}"
                    raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "GROUP_ENDED", message) from None
            else:
                group = await self._get(request.id)
        return pb.SealGroupResponse(group=group)

    async def GetGroup(self, request: pb.GetGroupRequest, context: _Context) -> pb.GetGroupResponse:
        async with refusing(context):
            require_id(request.id)
            group = await self._get(request.id)
        return pb.GetGroupResponse(group=group)

    async def ListGroups(self, request: pb.ListGroupsRequest, context: _Context) -> pb.ListGroupsResponse:
        async with refusing(context):
            violations: Violations = []
            check_page_size(request.page_size, violations)
            if violations:
                raise invalid(violations)
            scope = (self._engine.opened.identity, "groups")
            after = read_id_token(request.page_token, "page_token", *scope) if request.page_token else ""
            number = request.page_size or limits.PAGE_ITEMS_DEFAULT

            def look(state: State) -> list[_Found]:
                ids = sorted(id for id in state.dependents.groups if id > after)
                # One more, to see whether there are more.
                return [found for id in ids[: number + 1] if (found := _found(state, id)) is not None]

            found = await self._engine.read(look)
            response = pb.ListGroupsResponse(groups=await self._messages(found[:number]))
            if len(found) > number:
                response.next_page_token = make_id_token(found[number - 1].id, *scope)
        return response

    async def _get(self, id: str) -> pb.Group:
        """Returns how far a group is.

        Raises:
            Refusal: NOT_FOUND: no group has this id.
        """
        found = await self._engine.read(lambda state: _found(state, id))
        if found is not None:
            messages = await self._messages([found])
            if messages:
                return messages[0]
        task = next(iter([restore(record) for record in await self._store.load([id])]), None)
        if task is None or task.spec.group is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "GROUP_UNKNOWN", f"no group has the id {id!r}")
        standing = task.standing
        # A task that is changed gets another seq, and its children have been there before.
        above = task.seq if standing.edit is None else standing.edit.seq
        (counts,) = await self._store.children([(id, above)])
        children = Children(above, None, counts)
        found = _Found(id, task.spec.after_rule, state_of(children, children.there), standing)
        return _message(found, standing)

    async def _messages(self, found: Sequence[_Found]) -> list[pb.Group]:
        """Returns these groups as messages, without those whose tasks have been removed meanwhile."""
        standings = dict(await self._store.standings([each.id for each in found if each.standing is None]))
        return [
            _message(each, standing)
            for each in found
            if (standing := each.standing or standings.get(each.id)) is not None
        ]


def _found(state: State, id: str) -> _Found | None:
    dependent, task = state.dependents.groups.get(id), state.tasks.get(id)
    if dependent is None or dependent.children is None:
        return None
    counted = state_of(dependent.children, dependent.children.expected)
    return _Found(id, dependent.rule, counted, None if task is None else task.standing)


def _message(found: _Found, standing: Standing) -> pb.Group:
    counted = found.state
    return pb.Group(
        id=found.id,
        status=pb.TaskStatus.ValueType(standing.status),
        after_rule=pb.AfterRule.ValueType(found.rule),
        expected=counted.expected,
        unfinished=counted.unfinished,
        completed=counted.completed,
        failed=counted.failed,
        cancelled=counted.cancelled,
        created_at_ms=standing.created_ms,
    )
