"""Makes calls with raw bytes, one after another, and refuses outcomes that show a fault of the server."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
from fuzz_messages import SERVICES, frames, path_of, requests
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gowork.base.channels import CHANNEL_OPTIONS
from gowork.proto.worker.v1 import session_pb2

#: How many sequences of calls to try; 0 for CI's number.
EXAMPLES = int(os.environ.get("GOWORK_FUZZ_EXAMPLES", "0"))
#: In CI each run tries the same sequences. With a number of one's own, each run tries others.
FUZZ = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
#: How long a call may take, in seconds.
CALL_SECONDS = 10.0
#: How long calls get, in seconds, that go on until their caller or a task ends them.
_OPEN_SECONDS = 0.05
_OPEN = frozenset({"WaitTask", "WaitTasks", "WatchTasks"})
_CONNECT = "/worker.v1.SessionService/Connect"
#: How long a frame waits for a grant on which it can report, in seconds.
_GRANT_SECONDS = 0.02
#: Codes that mean that the server is at fault, or that it did not answer.
_FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True)
class Call:
    """One call: the bytes of its requests, in order."""

    path: str
    requests: Sequence[bytes]
    client_streaming: bool
    server_streaming: bool
    #: In a session: whether reports and progress are changed to name a granted task, if there is one.
    rightful: bool = False


@st.composite
def calls(draw: st.DrawFn, methods: Sequence[MethodDescriptor]) -> Call:
    """Draws a call of one of these methods."""
    method = draw(st.sampled_from(methods))
    one, rightful = requests(method.input_type), False
    if path_of(method) == _CONNECT:
        sent, rightful = draw(frames()), draw(st.booleans())
    elif method.client_streaming:
        sent = draw(st.lists(one, max_size=5))
    else:
        sent = [draw(one)]
    return Call(path_of(method), sent, method.client_streaming, method.server_streaming, rightful)


def methods_of(*names: str) -> list[MethodDescriptor]:
    """The methods of the services with these names."""
    services: list[ServiceDescriptor] = [service for service in SERVICES if service.full_name in names]
    assert len(services) == len(names)
    return [method for service in services for method in service.methods]


def open_channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=list(CHANNEL_OPTIONS))


def make(channel: grpc.Channel, call: Call) -> grpc.StatusCode:
    """Makes the call and returns its status code.

    Raises:
        AssertionError: the server is at fault.
    """
    is_open = call.path.rpartition("/")[2] in _OPEN
    timeout = _OPEN_SECONDS if is_open else CALL_SECONDS
    code, details = _outcome(channel, call, timeout)
    told = f"{call.path} ended with {code.name}: {details}"
    assert code not in _FAULTS or (is_open and code is grpc.StatusCode.DEADLINE_EXCEEDED), told
    assert "Traceback" not in details, told
    # gRPC replaces an error that is too large, so the caller would not see it.
    assert "metadata size" not in details, told
    return code


def _outcome(channel: grpc.Channel, call: Call, timeout: float) -> tuple[grpc.StatusCode, str]:
    try:
        if call.client_streaming:
            stream_stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.path)
            _Conversation(call).run(stream_stream, timeout)
        elif call.server_streaming:
            unary_stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(call.path)
            for _ in unary_stream(call.requests[0], timeout=timeout):
                pass
        else:
            unary_unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call.path)
            unary_unary(call.requests[0], timeout=timeout)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


class _Conversation:
    """A stream of requests, some of which fit the responses so far."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._grants: deque[session_pb2.Grant] = deque()
        self._granted = threading.Event()

    def run(self, method: grpc.StreamStreamMultiCallable[bytes, bytes], timeout: float) -> None:
        for response in method(self._requests(), timeout=timeout):
            if self._call.path == _CONNECT:
                frame = session_pb2.ConnectResponse.FromString(response)
                self._grants.extend(frame.grants)
                if frame.grants:
                    self._granted.set()

    def _requests(self) -> Iterator[bytes]:
        for data in self._call.requests:
            yield self._rightful(data) if self._call.rightful else data

    def _rightful(self, data: bytes) -> bytes:
        try:
            frame = session_pb2.ConnectRequest.FromString(data)
        except Exception:  # noqa: BLE001 - what is not protobuf is sent as it is
            return data
        for columns in frame.completions:
            for row in range(min(len(columns.ids), len(columns.fences))):
                if self._granted.wait(_GRANT_SECONDS) and self._grants:
                    grant = self._grants.popleft()
                    columns.ids[row], columns.fences[row] = grant.id, grant.fence
        named: list[session_pb2.Report | session_pb2.ProgressReport] = [*frame.reports, *frame.progress]
        for said in named:
            if self._granted.wait(_GRANT_SECONDS) and self._grants:
                grant = self._grants.popleft()
                said.fence, said.id = grant.fence, grant.id
        return frame.SerializeToString()
