"""The leader's services as one registry: which object answers which call.

A service is composed of parts. A part is an object that has methods by the names of RPCs, so that each may keep what it
alone needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
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
#: {service: {method: whether it answers with a stream}}
SERVICES: dict[str, dict[str, bool]] = {
    service.full_name: {method.name: method.server_streaming for method in service.methods} for service in _DESCRIPTORS
}


def compose(parts: Mapping[str, Sequence[object]]) -> dict[tuple[str, str], Method]:
    """What answers each call: {(service, method): a part's method}.

    Args:
        parts: {service: the objects that it is made of}.

    Raises:
        ValueError: for a call that no part answers, or more than one.
    """
    methods: dict[tuple[str, str], Method] = {}
    for service, names in SERVICES.items():
        for name in names:
            found = [method for part in parts.get(service, ()) if (method := getattr(part, name, None)) is not None]
            if len(found) != 1:
                raise ValueError(f"{service}/{name} must be answered by one part; {len(found)} have it")
            methods[service, name] = found[0]
    return methods


def add_service(service: str, methods: Mapping[str, Method], server: grpc.aio.Server) -> None:
    """Adds a service to a server: `methods` has each of its calls by name."""
    _ADDERS[service](SimpleNamespace(**methods), server)
