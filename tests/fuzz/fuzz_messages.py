"""Draws messages with any values from the descriptors, so that new methods and fields are tried without further code.

Many messages are a template that the leader accepts, or start from one, so that code behind the checks is reached too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from gowork.proto.cluster.v1 import leader_pb2
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2, worker_pb2

#: Ids that calls share, so that they concern the same tasks.
IDS = [f"t{number}" for number in range(4)]
_NAMES = ["w1", "w2", "default", "h"]
_TEXTS = [
    "",
    " ",
    "a" * 128,
    "a" * 129,
    "x" * 256,
    "x" * 257,
    "\U0001f600" * 64,
    "\U0001f600" * 1001,
    "\U0010ffff",
    "\u202e\u0000\u007f",
    "e\u0301\ufeff",
    "\ud7ff\ue000",
    'status = RUNNING AND labels.a = "b"',
    'id = "t*"',
    "%s%n{0}",
    "../../etc/passwd",
    "-1",
    "NaN",
]
#: Sizes of large values, in bytes; a value is built only when its size is drawn.
_SIZES = [4096, 4097, 1 << 20, (1 << 20) + 1]
#: Addresses without a listener.
_ADDRESSES = ["127.0.0.1:1", "[::1]:1", "127.0.0.1:0", "127.0.0.1:99999", "::1:4", "nowhere", ":", "[:1"]
_INTS = {
    (32, True): [0, 1, -1, 7, 10_000, 10_001, 2**31 - 1, -(2**31)],
    (32, False): [0, 1, 7, 10_000, 2**32 - 1],
    (64, True): [0, 1, -1, 500, 86_400_001, 2**53 + 1, 2**63 - 1, -(2**63)],
    (64, False): [0, 1, 7, 2**40, 2**53 + 1, 2**63, 2**64 - 1],
}
_FLOATS = [0.0, -0.0, 1.0, 0.5, -1.0, 101.0, 1e308, 5e-324, math.inf, -math.inf, math.nan]
_WIDTHS = {
    FieldDescriptor.TYPE_INT32: (32, True),
    FieldDescriptor.TYPE_SINT32: (32, True),
    FieldDescriptor.TYPE_SFIXED32: (32, True),
    FieldDescriptor.TYPE_UINT32: (32, False),
    FieldDescriptor.TYPE_FIXED32: (32, False),
    FieldDescriptor.TYPE_INT64: (64, True),
    FieldDescriptor.TYPE_SINT64: (64, True),
    FieldDescriptor.TYPE_SFIXED64: (64, True),
    FieldDescriptor.TYPE_UINT64: (64, False),
    FieldDescriptor.TYPE_FIXED64: (64, False),
}
#: How deep messages may be nested.
_DEPTH_MAX = 5

SERVICES = [
    service
    for file in (leader_pb2, scheduler_pb2, session_pb2, worker_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]

_TASK = scheduler_pb2.Task(id="t0", handler="h", payload="{}")
_HELLO = session_pb2.Hello(name="w1", instance="w1-1", slots=4, handlers=[session_pb2.HandlerInfo(name="h")])
_REPORT = session_pb2.Report(fence=7, id="t0", outcome=scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED)
#: {full name of a message: a message of this type that the leader accepts}.
TEMPLATES: Mapping[str, Message] = {
    template.DESCRIPTOR.full_name: template
    for template in (
        _TASK,
        _HELLO,
        scheduler_pb2.ScheduleTaskRequest(task=_TASK),
        scheduler_pb2.ScheduleTasksRequest(tasks=[_TASK]),
        scheduler_pb2.WaitTasksRequest(ids=["t0"]),
        scheduler_pb2.RetryPolicy(max_attempts=3, initial_delay_ms=1),
        session_pb2.ConnectRequest(reports=[_REPORT], credit=[3]),
        session_pb2.Completions(ids=["t0"], fences=[7], execution_us=[0]),
        session_pb2.Held(id="t0", fence=7, state=session_pb2.HELD_STATE_RUNNING),
        _REPORT,
        session_pb2.HandlerInfo(name="h"),
        leader_pb2.JoinRequest(id="c1", address="127.0.0.1:1"),
        worker_pb2.StartWorkRequest(id="t0", payload="x"),
    )
}


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


@st.composite
def requests(draw: st.DrawFn, descriptor: Descriptor) -> bytes:
    """Draws the bytes of one request: mostly a message of this type, with any values."""
    kind = draw(st.integers(0, 19))
    if kind == 0:
        return draw(st.binary(max_size=64))
    data = draw(messages(descriptor)).SerializeToString()
    if kind == 1:
        # Unknown fields of each wire type.
        data += draw(st.sampled_from([b"\xf8\x7f\x01", b"\xfa\x7f\x03abc", b"\xf9\x7f12345678", b"\xfd\x7f1234"]))
    elif kind == 2:
        data = data[: draw(st.integers(0, max(0, min(len(data), 64) - 1)))]
    return data


@st.composite
def frames(draw: st.DrawFn) -> list[bytes]:
    """Draws the requests of a session: mostly with an acceptable Hello, in the first frame alone."""
    whole = requests(session_pb2.ConnectRequest.DESCRIPTOR)
    if draw(st.integers(0, 3)) == 0:
        return draw(st.lists(whole, max_size=5))
    hello = session_pb2.Hello(name=draw(st.sampled_from(_NAMES)), instance=draw(st.sampled_from(IDS)), slots=4)
    hello.handlers.add(name="h", is_default=draw(st.booleans()))
    held = messages(session_pb2.Held.DESCRIPTOR)
    hello.held.extend(draw(st.lists(held.filter(lambda one: one.id in IDS and 0 <= one.state <= 3), max_size=2)))
    sent = [session_pb2.ConnectRequest(hello=hello).SerializeToString()]
    if draw(st.booleans()):
        sent.append(session_pb2.ConnectRequest(credit=[draw(st.sampled_from([1, 3, 2**64 - 1]))]).SerializeToString())
    for frame in draw(st.lists(messages(session_pb2.ConnectRequest.DESCRIPTOR), max_size=5)):
        frame.ClearField("hello")
        sent.append(frame.SerializeToString())
    return sent


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Any:
    """Draws a message of this type: its template or an empty one, with any values in a few fields."""
    message = GetMessageClass(descriptor)()
    template = TEMPLATES.get(descriptor.full_name)
    if template is not None:
        start = draw(st.integers(0, 3))
        if start < 3:
            message.CopyFrom(template)
        if start == 0:
            return message
    fields = list(descriptor.fields)
    if not fields:
        return message
    few = st.lists(st.sampled_from(range(len(fields))), max_size=4, unique=True)
    for place in draw(few):
        _fill(draw, message, fields[place], depth)
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        key, value = inner.fields_by_name["key"], inner.fields_by_name["value"]
        entries = st.dictionaries(_values(key), _values(value), max_size=3)
        if draw(st.integers(0, 9)) == 0:
            entries = st.just({f"k{number}": "v" for number in range(65)})
        getattr(message, field.name).update(draw(entries))
    elif inner is not None:
        if depth >= _DEPTH_MAX:
            return
        if field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(messages(inner, depth + 1), max_size=3)))
        else:
            getattr(message, field.name).CopyFrom(draw(messages(inner, depth + 1)))
    elif field.is_repeated:
        many = st.lists(_values(field), max_size=4)
        getattr(message, field.name).extend(draw(many))
    else:
        setattr(message, field.name, draw(_values(field)))


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type in _WIDTHS:
        bits, signed = _WIDTHS[field.type]
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return st.sampled_from(_INTS[bits, signed]) | st.integers(least, most)
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return _texts(field.name)
        case FieldDescriptor.TYPE_BYTES:
            large = st.sampled_from(_SIZES).map(lambda size: b"\xff" * size)
            return st.binary(max_size=20) | large
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            known = [value.number for value in field.enum_type.values]
            return st.sampled_from([*known, *known, -1, max(known) + 1, 2**31 - 1, -(2**31)])
        case FieldDescriptor.TYPE_DOUBLE:
            return st.sampled_from(_FLOATS) | st.floats()
        case FieldDescriptor.TYPE_FLOAT:
            return st.floats(width=32)
        case _:
            raise AssertionError(f"no values for {field.full_name}")


def _texts(name: str) -> st.SearchStrategy[str]:
    plain = {"id": IDS, "ids": IDS, "address": _ADDRESSES}.get(name, _NAMES)
    odd = st.sampled_from(_TEXTS) | st.text(max_size=10)
    large = st.sampled_from(_SIZES).map(lambda size: "x" * size)
    return st.one_of(st.sampled_from(plain), st.sampled_from(plain), odd, odd, large if name != "id" else odd)
