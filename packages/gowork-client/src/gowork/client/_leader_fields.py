"""Knows which fields of requests the leader reads, so that it does not silently drop one that matters.

Leaders since 0.2.0 list them (GetLeader). For 0.1.0 and the original go-work, this module lists them; a test compares
these lists with their contracts. A request that the leader would not understand is refused. Delays and times until an
expiry are converted to times, by this machine's clock, for a leader that does not know them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gowork.client.errors import LeaderTooOld
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: How long a leader's answer counts, in seconds. It ends because an older leader may take this one's place.
BELIEVED_S = 60.0
#: Fields that were added after 0.1.0 to messages that it has. A method that it lacks is refused whole.
SINCE_0_1_0 = frozenset(
    {
        "scheduler.v1.Task.after",
        "scheduler.v1.Task.after_rule",
        "scheduler.v1.Task.delay_ms",
        "scheduler.v1.Task.expires_in_ms",
        "scheduler.v1.Task.group",
        "scheduler.v1.Task.on_lost",
        "scheduler.v1.Task.payload_form",
        "scheduler.v1.Task.plugin_version",
        "scheduler.v1.Task.unique_for_ms",
        "scheduler.v1.Task.unique_key",
        *(f"scheduler.v1.RetryTaskRequest.{name}" for name in ("payload", "data", "payload_form", "handler")),
    }
)
#: Fields of tasks that the original reads.
ORIGINAL = frozenset(f"scheduler.v1.Task.{name}" for name in ("id", "payload", "priority", "status"))
#: Fields without which a task is the same, so that a leader may drop them.
HARMLESS = frozenset(f"scheduler.v1.Task.{name}" for name in ("traceparent", "tracestate", "payload_form"))


def _fields_of(descriptors: Iterable[Descriptor]) -> frozenset[str]:
    waiting, seen = list(descriptors), {}
    while waiting:
        message = waiting.pop()
        if message.full_name not in seen:
            seen[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return frozenset(field.full_name for message in seen.values() for field in message.fields)


def _requests() -> Iterator[Descriptor]:
    for file in (scheduler.DESCRIPTOR, cluster.DESCRIPTOR):
        for service in file.services_by_name.values():
            for method in service.methods:
                yield method.input_type


#: All fields that this client may send.
KNOWN_HERE = _fields_of(_requests())


@dataclass(frozen=True, slots=True)
class LeaderFields:
    """The fields that one leader reads."""

    #: The version of gowork-leader; empty for the original go-work.
    version: str
    #: Full names of the fields that the leader would drop and that are not HARMLESS.
    lacks: frozenset[str]

    @classmethod
    def told(cls, message: scheduler.GetLeaderResponse) -> LeaderFields:
        """Makes it for a leader that lists its fields."""
        return cls(message.version, KNOWN_HERE - HARMLESS - frozenset(message.request_fields))

    @classmethod
    def before_0_2_0(cls, version: str) -> LeaderFields:
        """Makes it for a leader of gowork that does not have GetLeader."""
        return cls(version, SINCE_0_1_0 - HARMLESS)

    def fit(self, task: scheduler.Task, now_ms: int, address: str) -> None:
        """Replaces `delay_ms` and `expires_in_ms` of a task by times, if the leader does not know them.

        Args:
            task: the task, which is changed.
            now_ms: the time of this machine, in milliseconds since the epoch.
            address: the leader's address, for the error.

        Raises:
            LeaderTooOld: when the leader would drop another field.
        """
        if not self.lacks:
            return
        if task.delay_ms and "scheduler.v1.Task.delay_ms" in self.lacks:
            task.run_at_ms, task.delay_ms = now_ms + task.delay_ms, 0
        if task.expires_in_ms and "scheduler.v1.Task.expires_in_ms" in self.lacks:
            task.expires_at_ms, task.expires_in_ms = now_ms + task.expires_in_ms, 0
        self.check(task, address)

    def check(self, request: Message, address: str) -> None:
        """Checks that the leader would drop no field of a request.

        Raises:
            LeaderTooOld: when it would drop one. The error names the fields.
        """
        lacking = [field for field in _set_fields(request) if field in self.lacks]
        if lacking:
            raise LeaderTooOld.without_fields(lacking, self.version, address)


#: The original go-work. Only fields of tasks are listed, because it has none of the methods that take other new fields.
THE_ORIGINAL = LeaderFields(
    "", frozenset(field.full_name for field in scheduler.Task.DESCRIPTOR.fields) - ORIGINAL - HARMLESS
)


#: Full names of requests that may have a field which was added after 0.1.0. Tasks are checked one by one, with `fit`.
_ASKED_ABOUT = frozenset(
    request.full_name
    for request in _requests()
    if any(field.full_name in SINCE_0_1_0 - HARMLESS for field in request.fields)
)


def needs_asking(request: Message) -> bool:
    """Whether the leader must be asked for its fields before this request. It is for requests without new tasks."""
    return request.DESCRIPTOR.full_name in _ASKED_ABOUT


def goes_beyond(task: scheduler.Task) -> bool:
    """Whether a task has a field that the original go-work would drop."""
    return any(field.full_name in THE_ORIGINAL.lacks for field, _ in task.ListFields())


class Told:
    """The fields that the leader has named, for BELIEVED_S seconds."""

    __slots__ = ("_fields", "_until")

    def __init__(self) -> None:
        self._fields: LeaderFields | None = None
        self._until = 0.0

    def get(self) -> LeaderFields | None:
        """Returns the fields; None when the leader has to be asked."""
        return self._fields if time.monotonic() < self._until else None

    def put(self, fields: LeaderFields) -> LeaderFields:
        """Keeps and returns the fields that the leader has named just now."""
        self._fields, self._until = fields, time.monotonic() + BELIEVED_S
        return fields

    def forget(self) -> None:
        """Forgets the fields, because a call failed, and another leader may take the next."""
        self._fields = None
        self._until = 0.0


def _set_fields(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        yield field.full_name
        for inner in (value,) if isinstance(value, Message) else value if _holds_messages(field) else ():
            yield from _set_fields(inner)


def _holds_messages(field: FieldDescriptor) -> bool:
    message = field.message_type
    return message is not None and not message.GetOptions().map_entry
