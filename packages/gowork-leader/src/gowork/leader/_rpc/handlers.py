"""Answers cluster.v1.LeaderService/ListHandlers: what workers run now, in which versions, and how it is described."""

from __future__ import annotations

import grpc

from gowork.leader._access.rights import CALLER
from gowork.leader._core.queries import HandlerView, handlers
from gowork.leader._engine.loop import Engine
from gowork.leader._rpc.boundary import refusing
from gowork.leader._rpc.descriptions import Descriptions
from gowork.leader._rpc.tokens import make_id_token, read_id_token
from gowork.leader._rpc.validation import Violations, check_handler_name, check_page_size
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import invalid

_Context = grpc.aio.ServicerContext[object, object]


class Handlers:
    """Answers the call about handlers."""

    def __init__(self, engine: Engine, descriptions: Descriptions) -> None:
        self._engine = engine
        self._descriptions = descriptions

    async def ListHandlers(self, request: pb.ListHandlersRequest, context: _Context) -> pb.ListHandlersResponse:
        async with refusing(context):
            violations: Violations = []
            check_handler_name(request.name, "name", violations)
            check_page_size(request.page_size, violations)
            if violations:
                raise invalid(violations)
            scope = (self._engine.opened.identity, "handlers")
            after = read_id_token(request.page_token, "page_token", *scope) if request.page_token else ""
            caller = CALLER.get()
            found = [
                (name, versions)
                for name, versions in await self._engine.read(handlers)
                # No name is empty. A page goes on after a name, because handlers come and go between two pages.
                if name > after
                and (not request.name or name == request.name)
                and (caller is None or caller.may_handler(name))
            ]
            response, size = pb.ListHandlersResponse(), 0
            for name, versions in found[: request.page_size or limits.PAGE_ITEMS_MAX]:
                message = self._message(name, versions)
                size += message.ByteSize() + 5
                if size > limits.PAGE_BYTES_MAX and response.handlers:
                    break
                response.handlers.append(message)
            if len(response.handlers) < len(found):
                response.next_page_token = make_id_token(response.handlers[-1].name, *scope)
        return response

    def _message(self, name: str, versions: list[HandlerView]) -> pb.Handler:
        message = pb.Handler(name=name)
        size = 0
        for version in versions:
            description = self._descriptions.get(version.digest)
            size += len(description)
            message.versions.add(
                plugin=version.plugin,
                plugin_version=version.plugin_version,
                # Workers that lie may have any number of versions of one name.
                description=description if size <= limits.PAGE_BYTES_MAX else "",
                description_digest=version.digest,
                workers=len(version.workers),
                worker_names=version.workers[: limits.HANDLER_WORKERS_NAMED_MAX],
            )
        return message
