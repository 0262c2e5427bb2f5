"""The leader's services as one registry: which object answers which call, and whether anything answers it now.

A service is composed of parts. A part is an object that has methods by the names of RPCs, so that each may keep what it
alone needs. The parts are a term's and the servers are the process's: between them is the switchboard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn, TypeAlias

import grpc

from gowork.leader._rpc.endings import Endings
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.status import Refusal, abort
from gowork.proto.worker.v1 import session_pb2, session_pb2_grpc

#: Answers a call: its request, or the iterator of its requests, and its context.
Method: TypeAlias = "Callable[[Any, Any], Any]"

_DESCRIPTORS = (
    leader_pb2.DESCRIPTOR.services_by_name["LeaderService"],
    scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
)
#: {service: what adds one to a server}
_ADDERS: dict[str, Callable[[Any, grpc.aio.Server], None]] = {
    "cluster.v1.LeaderService": leader_pb2_grpc.add_LeaderServiceServicer_to_server,
    "scheduler.v1.SchedulerService": scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server,
    "worker.v1.SessionService": session_pb2_grpc.add_SessionServiceServicer_to_server,
}
#: {service: {method: whether it answers with a stream}}. A call is named `service/method`.
SERVICES: dict[str, dict[str, bool]] = {
    service.full_name: {method.name: method.server_streaming for method in service.methods} for service in _DESCRIPTORS
}


def compose(parts: Mapping[str, Sequence[object]]) -> dict[str, Method]:
    """What answers each call: {call: a part's method}.

    Args:
        parts: {service: the objects that it is made of}.

    Raises:
        ValueError: for a call that no part answers, or more than one.
    """
    methods: dict[str, Method] = {}
    for service, names in SERVICES.items():
        for name in names:
            found = [method for part in parts.get(service, ()) if (method := getattr(part, name, None)) is not None]
            if len(found) != 1:
                raise ValueError(f"{service}/{name} must be answered by one part; {len(found)} have it")
            methods[f"{service}/{name}"] = found[0]
    return methods


class Switchboard:
    """Where calls arrive, over all terms: each is put through to the term, or told why it can't be.

    Args:
        refusal: why no call is put through yet.
    """

    def __init__(self, refusal: Refusal) -> None:
        #: {call: what answers it now}
        self._methods: dict[str, Method] = {}
        self._refusal = refusal
        #: Calls that were not put through, so far.
        self.refused = 0
        #: {the task that serves a stream that was put through: its context}
        self._streams: dict[asyncio.Task[Any], grpc.aio.ServicerContext[Any, Any]] = {}
        self._endings = Endings()
        self.disconnect(refusal)

    def connect(self, methods: Mapping[str, Method]) -> None:
        """Puts calls through to these methods from now on."""
        self._methods.update(methods)

    def disconnect(self, refusal: Refusal) -> None:
        """Ends calls with this refusal from now on. Those that were put through before go on."""
        self._refusal = refusal
        for service, names in SERVICES.items():
            for name, streams in names.items():
                self._methods[f"{service}/{name}"] = self._refuse_stream if streams else self._refuse

    def add_to(self, server: grpc.aio.Server, service: str) -> None:
        """Adds a service to a server that has not started."""
        through = {
            name: self._through(f"{service}/{name}", streams=streams) for name, streams in SERVICES[service].items()
        }
        _ADDERS[service](SimpleNamespace(**through), server)

    def end_streams(self) -> list[asyncio.Task[Any]]:
        """Ends the streams that were put through and are still under way; their callers are told why when they read.

        Returns: the tasks that serve them, which end soon.
        """
        streams = list(self._streams.items())
        for serving, context in streams:
            self._endings.end(serving, context, self._refusal)
        return [serving for serving, _ in streams]

    def _through(self, call: str, *, streams: bool) -> Method:
        methods = self._methods

        # No coroutine of its own, which each call would pay for: it hands on what the method answers.
        def put_through(request: Any, context: Any) -> Any:
            return methods[call](request, context)

        def put_stream_through(request: Any, context: Any) -> Any:
            serving = asyncio.current_task()
            assert serving is not None
            self._streams[serving] = context
            serving.add_done_callback(self._streams.pop)
            return methods[call](request, context)

        return put_stream_through if streams else put_through

    async def _refuse(self, request: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
        self.refused += 1
        await abort(context, self._refusal)

    async def _refuse_stream(
        self, request: object, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[NoReturn]:
        yield await self._refuse(request, context)
