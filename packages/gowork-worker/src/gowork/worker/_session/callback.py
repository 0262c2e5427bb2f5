"""The worker as a callback member: it joins with an address, is dialled with StartWork and reports by TaskComplete.

This is the original contract, for leaders that know no sessions. There are no fences in it; the worker makes its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import grpc

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.rpc.channels import SERVER_OPTIONS, format_address, open_channel, parse_address
from gowork.rpc.decoding import refusing_garbage
from gowork.rpc.interception import server_interceptors
from gowork.rpc.reflection import add_reflection
from gowork.rpc.status import FieldViolation, abort, invalid, refusal_of
from gowork.rpc.telemetry import is_traced
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds between heartbeats; leaders give a member up after 45.
_HEARTBEAT_INTERVAL = 5.0
_CALL_TIMEOUT = 5.0
#: Seconds between attempts to reach the leader, at first and at most.
_RETRY_FIRST = 0.1
_RETRY_MAX = 2.0
#: Seconds that StopWork waits for a task to end: longer than any usual grace.
_STOP_TIMEOUT = 15.0


class CallbackMember:
    """Await `run`; it ends when the worker has said goodbye, or is cancelled."""

    def __init__(
        self,
        supervisor: Supervisor,
        addresses: Sequence[str],
        *,
        listen: str,
        advertise: str | None,
        scheduler: Sequence[str],
    ) -> None:
        """Args:
        supervisor: runs the tasks.
        addresses: where the leader serves cluster.v1.LeaderService.
        listen: HOST:PORT to serve worker.v1.WorkerService on; port 0 takes a free one.
        advertise: HOST:PORT that the leader dials; None means the address that it listens on.
        scheduler: where the leader serves scheduler.v1.SchedulerService.
        """
        self._supervisor = supervisor
        self._addresses = addresses
        self._listen = listen
        self._advertise = advertise
        self._scheduler = scheduler
        self.welcomed = asyncio.Event()
        self.connected = False
        #: HOST:PORT that it listens on, once it does.
        self.address = ""
        self._fences = itertools.count(1)
        #: fence -> task id, until the report is settled
        self._started: dict[int, str] = {}
        #: Set, and replaced, whenever a task has ended.
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serves, joins, sends heartbeats and reports."""
        server = grpc.aio.server(options=list(SERVER_OPTIONS), interceptors=server_interceptors())
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(_WorkerService(self), refusing_garbage(server))
        add_reflection(server, ["worker.v1.WorkerService"])
        host, _ = parse_address(self._listen, name="--listen")
        self.address = format_address(host, server.add_insecure_port(self._listen))
        await server.start()
        self._supervisor.start_session()
        try:
            async with open_channel(self._addresses) as leader, open_channel(self._scheduler) as scheduler:
                async with asyncio.TaskGroup() as group:
                    member = group.create_task(self._stay_member(leader), name="heartbeats")
                    await self._report_for_ever(scheduler_pb2_grpc.SchedulerServiceStub(scheduler))
                    member.cancel()
                await self._leave(leader)
        finally:
            await server.stop(None)

    def start(self, id: str, payload: str) -> bool:
        """Takes a task, if there is room."""
        supervisor = self._supervisor
        if supervisor.draining or len(self._started) >= supervisor.options.slots or id in self._started.values():
            return False
        fence = next(self._fences)
        self._started[fence] = id
        task = tasks.Task(id=id, payload=payload, traceparent=_call_traceparent()).SerializeToString()
        grant = session.Grant(fence=fence, id=id, attempt=1, task=task)
        supervisor.receive(session.ConnectResponse(grants=[grant]))
        return True

    async def stop(self, id: str) -> bool:
        """Stops a task; whether the worker had it and it no longer runs."""
        fence = next((fence for fence, started in self._started.items() if started == id), None)
        if fence is None:
            return False
        self._supervisor.receive(session.ConnectResponse(cancelled=[fence]))
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                while fence in self._started:
                    await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def _stay_member(self, channel: grpc.aio.Channel) -> None:
        stub: Any = leader_pb2_grpc.LeaderServiceStub(channel)
        # One request, one response: the same bytes for leaders that declare the method unary, client-streaming or
        # bidirectional.
        heartbeat: Any = channel.unary_unary(
            "/cluster.v1.LeaderService/Heartbeat",
            request_serializer=leader_pb2.HeartbeatRequest.SerializeToString,
            response_deserializer=leader_pb2.HeartbeatResponse.FromString,
        )
        name, address = self._supervisor.options.name, self._advertise or self.address
        delay = _RETRY_FIRST
        while True:
            try:
                if not self.connected:
                    await stub.Join(leader_pb2.JoinRequest(id=name, address=address), timeout=_CALL_TIMEOUT)
                    logger.info("joined", extra={"address": address})
                    self.connected = True
                    self.welcomed.set()
                status = leader_pb2.HEARTBEAT_STATUS_BUSY if self._started else leader_pb2.HEARTBEAT_STATUS_IDLE
                if self._supervisor.draining:
                    status = leader_pb2.HEARTBEAT_STATUS_FAILED
                await heartbeat(leader_pb2.HeartbeatRequest(id=name, status=status), timeout=_CALL_TIMEOUT)
                delay = _RETRY_FIRST
                await asyncio.sleep(_HEARTBEAT_INTERVAL)
            except grpc.aio.AioRpcError as error:
                # An unknown member joins again; so does one whose leader was away and may have forgotten it.
                if self.connected or delay == _RETRY_FIRST:
                    reason = refusal_of(error).message or error.code().name
                    logger.warning("not a member, trying again", extra={"reason": reason})
                self.connected = False
                await asyncio.sleep(delay)
                delay = min(_RETRY_MAX, delay * 2)

    async def _report_for_ever(self, scheduler: Any) -> None:
        supervisor = self._supervisor
        while not supervisor.has_left:
            await supervisor.wake.wait()
            supervisor.wake.clear()
            request = supervisor.take(1 << 20)
            for report in request.reports if request is not None else ():
                await self._report(scheduler, report)
                supervisor.receive(session.ConnectResponse(acknowledged=[report.fence]))

    async def _report(self, scheduler: Any, report: session.Report) -> None:
        id = self._started.get(report.fence, report.id)
        self._started.pop(report.fence, None)
        self._ended.set()
        self._ended = asyncio.Event()
        if report.outcome == tasks.ATTEMPT_OUTCOME_CANCELLED:
            return  # StopWork has been answered, which says it all.
        request = tasks.TaskCompleteRequest(id=id)
        if report.follow_ups:
            # TaskComplete has no room for them, and scheduling them by another call could do so twice.
            request.error = "the handler has scheduled follow-ups, which a worker that is dialled can't report"
        elif report.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
            request.error = report.failure.message or report.reason or "failed"
        delay = _RETRY_FIRST
        while True:
            try:
                await scheduler.TaskComplete(request, timeout=_CALL_TIMEOUT)
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    logger.warning("report refused", extra={"task_id": id, "reason": refusal_of(error).message})
                    return
                await asyncio.sleep(delay)
                delay = min(_RETRY_MAX, delay * 2)

    async def _leave(self, channel: grpc.aio.Channel) -> None:
        stub: Any = leader_pb2_grpc.LeaderServiceStub(channel)
        try:
            await stub.Leave(leader_pb2.LeaveRequest(id=self._supervisor.options.name), timeout=_CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            logger.warning("could not say goodbye", extra={"reason": refusal_of(error).message})


def _call_traceparent() -> str:
    """The context of the call that is being served, to link the attempt to; empty where it is not traced."""
    if not is_traced():
        return ""
    # OpenTelemetry is imported only where it is used.
    from opentelemetry.trace import get_current_span

    from gowork.rpc.spans import traceparent_of

    return traceparent_of(get_current_span().get_span_context())


class _WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, member: CallbackMember) -> None:
        self._member = member

    async def StartWork(  # noqa: N802 - the contract's name
        self, request: worker_pb2.StartWorkRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.StartWorkResponse:
        if not request.id:
            await abort(context, invalid([FieldViolation("id", "must not be empty")]))
        return worker_pb2.StartWorkResponse(success=self._member.start(request.id, request.payload))

    async def StopWork(  # noqa: N802 - the contract's name
        self, request: worker_pb2.StopWorkRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.StopWorkResponse:
        if not request.id:
            await abort(context, invalid([FieldViolation("id", "must not be empty")]))
        return worker_pb2.StopWorkResponse(success=await self._member.stop(request.id))
