"""The full names of the request fields that this leader reads, for clients that depend on one."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor

from gowork.proto.cluster.v1 import leader_pb2
from gowork.proto.scheduler.v1 import scheduler_pb2


def known_fields() -> list[str]:
    """Returns the sorted names of all fields of requests to both services, and of the messages inside them."""
    services = (
        scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
        leader_pb2.DESCRIPTOR.services_by_name["LeaderService"],
    )
    waiting: list[Descriptor] = [method.input_type for service in services for method in service.methods]
    seen: dict[str, Descriptor] = {}
    while waiting:
        message = waiting.pop()
        if message.full_name not in seen:
            seen[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return sorted(field.full_name for message in seen.values() for field in message.fields)
