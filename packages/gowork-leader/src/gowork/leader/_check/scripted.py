"""The scripted leader: it takes streams, answers heartbeats, and sends what it is told to.

Owns what the worker has said on each stream so far. It decides nothing: the scenarios do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import grpc
from google.protobuf.message import DecodeError

from gowork.base.channels import SERVER_OPTIONS, format_address, parse_address
from gowork.leader._rpc.columns import completions_from
from gowork.leader._rpc.validation import Violations, check_hello
from gowork.proto import limits
from gowork.proto.completions import reports_of
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2 as pb
from gowork.proto.worker.v1 import session_pb2_grpc

#: How many frames of one stream are read. More end the stream: a worker that floods the leader is at fault.
FRAMES_MAX = 100_000
_OUTCOMES = frozenset(scheduler_pb2.AttemptOutcome.values()) - {scheduler_pb2.ATTEMPT_OUTCOME_UNSPECIFIED}
_Context = grpc.aio.ServicerContext[pb.ConnectRequest, pb.ConnectResponse]
#: How a stream ends: with (code, details), or with OK (None).
_End = tuple[grpc.StatusCode, str] | None


class Stream:
    """One stream of the worker, from its Hello on."""

    def __init__(self, hello: pb.Hello) -> None:
        self.hello = hello
        #: Every report that came, in order.
        self.reports: list[pb.Report] = []
        #: Every count of credit that came, in order.
        self.credit: list[int] = []
        self.heartbeats = 0
        self.pongs: list[int] = []
        #: As the last condition said.
        self.draining = self.leaving = False
        #: Whether the worker has closed or cancelled the stream, or the leader has ended it.
        self.over = False
        #: In words, what the worker sent that no leader accepts.
        self.faults: list[str] = []
        #: Whether Welcome said that reports may come by columns.
        self.reads_completions = False
        #: How many grants were sent.
        self.granted = 0
        #: Whether heartbeats are answered.
        self.answering = True
        #: Whether reports are acknowledged as they come.
        self.acknowledging = True
        self._outbox: asyncio.Queue[pb.ConnectResponse | _End] = asyncio.Queue()
        #: Is set, and replaced by a new one, when something has come, or the stream is over.
        self._heard = asyncio.Event()

    def send(self, frame: pb.ConnectResponse) -> None:
        """Puts a frame on its way."""
        self.granted += len(frame.grants)
        self.reads_completions |= frame.welcome.reads_completions
        self._outbox.put_nowait(frame)

    def acknowledge(self, fences: Iterable[int], *, refused: bool = False) -> None:
        """Acknowledges reports, as recorded or as refused."""
        fences = list(fences)
        self.send(pb.ConnectResponse(acknowledged=fences, refused=fences if refused else []))

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        """Ends the stream after what is on its way: with this code, or without one with OK."""
        self._outbox.put_nowait(None if code is None else (code, details))

    def report_of(self, fence: int) -> pb.Report | None:
        """Returns the first report of a fence; None when there is none."""
        return next((report for report in self.reports if report.fence == fence), None)

    @property
    def room(self) -> int:
        """How many grants the worker's credit leaves."""
        return (self.credit[-1] if self.credit else 0) - self.granted

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Waits until the condition holds, the time is over or the stream is. Returns whether the condition holds."""
        try:
            async with asyncio.timeout(seconds):
                while not (condition() or self.over):
                    await self._heard.wait()
        except TimeoutError:
            pass
        return condition()

    def take(self, request: pb.ConnectRequest) -> None:
        """Notes what a frame says, and answers heartbeats and reports."""
        if request.HasField("hello"):
            self.faults.append("Hello came in a later frame")
        for count in request.credit:
            if self.credit and count < self.credit[-1]:
                self.faults.append(f"the credit fell from {self.credit[-1]} to {count}")
            self.credit.append(count)
        reports = [*request.reports, *self._by_columns(request.completions)]
        for report in reports:
            self._look_at(report)
        self.reports += reports
        self.pongs.extend(request.pongs)
        for condition in request.conditions:
            self.draining, self.leaving = condition.draining, condition.leaving
        if reports and self.acknowledging:
            self.acknowledge(report.fence for report in reports)
        if not request.ByteSize():
            self.heartbeats += 1
            if self.answering:
                self.send(pb.ConnectResponse())
        self._wake()

    def close(self) -> None:
        """Notes that the stream is over."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        """Wakes the scene that waits in `until`."""
        heard, self._heard = self._heard, asyncio.Event()
        heard.set()

    def _by_columns(self, completions: Sequence[pb.Completions]) -> list[pb.Report]:
        """Returns the reports that came by columns."""
        if not completions:
            return []
        if not self.reads_completions:
            self.faults.append("reports came by columns, and Welcome did not say that the leader reads completions")
        try:
            for number, columns in enumerate(completions):
                completions_from(columns, number)
        except Refusal as refusal:
            self.faults.append(refusal.message)
            return []
        return [report for columns in completions for report in reports_of(columns)]

    def _look_at(self, report: pb.Report) -> None:
        size = len(report.result.encode()) + len(report.result_data)
        if report.outcome not in _OUTCOMES:
            self.faults.append(f"the report of {report.id!r} has the unknown outcome {report.outcome}")
        if size > limits.PAYLOAD_BYTES_MAX:
            self.faults.append(f"the result of {report.id!r} has {size} bytes; the limit is {limits.PAYLOAD_BYTES_MAX}")

    async def sent(self) -> AsyncIterator[pb.ConnectResponse | _End]:
        """Yields what is to be sent: frames, and last the end of the stream."""
        while True:
            item = await self._outbox.get()
            yield item
            if not isinstance(item, pb.ConnectResponse):
                return


class ScriptedLeader(session_pb2_grpc.SessionServiceServicer):
    """Serves worker.v1.SessionService."""

    def __init__(self) -> None:
        #: Streams whose Hello has come and that no scene has taken yet.
        self._came: asyncio.Queue[Stream] = asyncio.Queue()
        #: Streams that are open now.
        self.open: list[Stream] = []
        #: What was wrong with streams that got no further than their first frame: (rule, what was wrong).
        self.faults: list[tuple[str, str]] = []
        self.address = ""

    @asynccontextmanager
    async def serving(self, listen: str) -> AsyncIterator[str]:
        """Serves at `listen`, HOST:PORT, where port 0 takes a free one. Yields the address."""
        server = grpc.aio.server(options=list(SERVER_OPTIONS))
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, server)
        host, _ = parse_address(listen)
        self.address = format_address(host, server.add_insecure_port(listen))
        await server.start()
        try:
            yield self.address
        finally:
            await server.stop(0)

    async def stream(self, seconds: float) -> Stream | None:
        """Returns the next stream, with its Hello; None when none comes in time."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    stream = await self._came.get()
                    if not stream.over:
                        return stream
        except TimeoutError:
            return None

    async def Connect(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: _Context
    ) -> AsyncIterator[pb.ConnectResponse]:
        """Serves a stream of the worker."""
        try:
            first = await anext(request_iterator)
        except StopAsyncIteration:
            self.faults.append(("hello-first", "a stream was closed before its Hello"))
            return
        if not first.HasField("hello"):
            self.faults.append(("hello-first", "the first frame has no Hello"))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must have a hello")
        violations: Violations = []
        check_hello(first.hello, violations)
        if violations:
            fault = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
            self.faults.append(("hello-valid", fault))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, fault[:1000])
        stream = Stream(first.hello)
        self.open.append(stream)
        self._came.put_nowait(stream)
        reader = asyncio.create_task(self._read(stream, request_iterator), name="reader of a stream")
        try:
            async for item in stream.sent():
                if isinstance(item, pb.ConnectResponse):
                    yield item
                elif item is not None:
                    await context.abort(*item)
        finally:
            # Noted before anything is awaited: a call that has ended may be cancelled while it still waits.
            self.open.remove(stream)
            stream.close()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, stream: Stream, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        count = 0
        try:
            async for request in requests:
                count += 1
                if count > FRAMES_MAX:
                    stream.faults.append(f"more than {FRAMES_MAX} frames came in one scene")
                    stream.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many frames")
                    return
                stream.take(request)
        except DecodeError:
            stream.faults.append("a frame is no ConnectRequest: its bytes can't be decoded")
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, "a frame can't be decoded")
            return
        # The worker has closed its side.
        stream.end()
