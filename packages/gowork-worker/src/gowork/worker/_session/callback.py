"""A callback worker: it joins with an address, the leader calls its StartWork, and it reports by TaskComplete.

This is the original contract, for leaders that know no sessions. When a leader gives a fence with a task, the report
has it. When it gives none, the worker numbers its tasks itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import grpc

from gowork.base.channels import SERVER_OPTIONS, bind, format_address, parse_address
from gowork.base.decoding import refusing_garbage
from gowork.base.identities import IdentityError, Role, caller_shown
from gowork.base.interception import server_interceptors
from gowork.base.reflection import add_reflection
from gowork.base.telemetry import is_traced
from gowork.base.tls import Tls
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc
from gowork.proto.status import FieldViolation, Refusal, abort, invalid, refusal_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.worker._session.completions import (
    CALL_TIMEOUT,
    CALL_TIMEOUT_AMONG_SEVERAL,
    RETRY_FIRST,
    RETRY_MAX,
    Completions,
    Started,
)
from gowork.worker._session.renewed import RenewedStub
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds between heartbeats. Leaders give a member up after 45 s without one.
_HEARTBEAT_INTERVAL = 5.0
#: Seconds that StopWork waits for a task to end: longer than any usual grace.
_STOP_TIMEOUT = 15.0


class CallbackWorker:
    """Joins a leader and runs its tasks. `run` ends when the worker has said goodbye, or is cancelled."""

    def __init__(
        self,
        supervisor: Supervisor,
        addresses: Sequence[str],
        *,
        listen: str,
        advertise: str | None,
        scheduler: Sequence[str],
        tls: Tls | None = None,
        leader_names: Sequence[str] = (),
    ) -> None:
        """Args:
        supervisor: runs the tasks.
        addresses: where the leader serves cluster.v1.LeaderService.
        listen: HOST:PORT to serve worker.v1.WorkerService on; port 0 takes a free one.
        advertise: HOST:PORT that the leader dials; None for the address that the worker listens on.
        scheduler: where the leader serves scheduler.v1.SchedulerService.
        tls: the certificates with which it serves, and calls the leader; None: plain text.
        leader_names: names of certificates that are leaders' besides those with the role, as in CN=leader.

        Raises:
            AddressError: when `listen` or `advertise` is not HOST:PORT.
            OSError: when that can't be listened on, such as a port that is taken.
        """
        self._supervisor = supervisor
        self._addresses = addresses
        self._listen = listen
        self._advertise = advertise
        self._scheduler = scheduler
        self._tls = tls
        self._leader_names = frozenset(leader_names)
        has_others = len(addresses) > 1 and len(scheduler) > 1
        #: How long a leader has to answer a call, in seconds.
        self._timeout = CALL_TIMEOUT_AMONG_SEVERAL if has_others else CALL_TIMEOUT
        self.welcomed = asyncio.Event()
        self.connected = False
        self._server = grpc.aio.server(options=list(SERVER_OPTIONS), interceptors=server_interceptors())
        #: HOST:PORT that it listens on.
        self.address = self._bind()
        self._fences = itertools.count(1)
        #: {fence: task that runs}
        self._running: dict[int, Started] = {}
        #: {fence: task whose end the leader has not heard}
        self._telling: dict[int, Started] = {}
        #: {fence: latest progress}, of tasks with progress that the leader has not been told
        self._progress: dict[int, session.ProgressReport] = {}
        self._progressed = asyncio.Event()
        #: False when the worker has to join before the next heartbeat.
        self._is_member = False
        #: Set when the worker has to join, or to send a heartbeat, at once.
        self._beat = asyncio.Event()
        self._told_draining = False

    async def run(self) -> None:
        """Serves, joins, sends heartbeats and reports."""
        server = self._server
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(_WorkerService(self), refusing_garbage(server))
        add_reflection(server, ["worker.v1.WorkerService"])
        await server.start()
        self._supervisor.start_session()
        try:
            async with (
                RenewedStub(_LeaderCalls, self._addresses, self._tls) as leader,
                RenewedStub(scheduler_pb2_grpc.SchedulerServiceStub, self._scheduler, self._tls) as scheduler,
            ):
                completions = Completions(
                    scheduler,
                    self._supervisor,
                    self._timeout,
                    addresses=len(self._scheduler),
                )
                async with asyncio.TaskGroup() as group:
                    parts = [
                        group.create_task(self._stay_member(leader, completions), name="heartbeats"),
                        group.create_task(self._tell_progress(completions), name="progress"),
                        group.create_task(self._report_for_ever(completions), name="reports"),
                    ]
                    await parts[-1]
                    for task in parts:
                        task.cancel()
                await self._leave(leader)
        finally:
            await server.stop(None)

    async def check_caller(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Ends a call that does not come from a leader, where callers show certificates."""
        if self._tls is None or not self._tls.asks_for_certificates:
            return
        try:
            shown = caller_shown(context)
        except IdentityError as error:
            await abort(context, Refusal(grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_UNUSABLE", str(error)))
        if shown is None:
            message = "the proxy has not handed on the certificate of a leader"
            await abort(context, Refusal(grpc.StatusCode.UNAUTHENTICATED, "NO_IDENTITY", message))
        if Role.LEADER not in shown.roles and self._leader_names.isdisjoint(shown.names):
            message = f"{shown.words} is no leader: its certificate needs the URI gowork://leader/NAME"
            logger.warning("denied", extra={"peer": context.peer(), "reason": message})
            await abort(context, Refusal(grpc.StatusCode.PERMISSION_DENIED, "NOT_A_LEADER", message))

    def _bind(self) -> str:
        host, _ = parse_address(self._listen, name="--listen")
        if self._advertise is not None:
            parse_address(self._advertise, name="--advertise")
        try:
            return format_address(host, bind(self._server, self._listen, self._tls))
        except RuntimeError as error:
            raise OSError(f"can't listen on {self._listen}: {error}") from error

    def start(self, id: str, payload: str, fence: int = 0, attempt: int = 0) -> bool:
        """Takes a task.

        Returns False when no slot is free, the worker drains, or it has the task, or one with this fence, already.
        """
        supervisor = self._supervisor
        held = [started.id for started in (*self._running.values(), *self._telling.values())]
        if supervisor.draining or len(self._running) >= supervisor.options.slots or id in held:
            return False
        if fence in self._running or fence in self._telling:
            # A leader grants each fence once. Anybody else must not mix up two tasks here.
            return False
        # Leaders' fences begin far above the numbers that this worker gives.
        taken = self._running.keys() | self._telling.keys()
        own = fence or next(number for number in self._fences if number not in taken)
        self._running[own] = Started(id, fence)
        task = tasks.Task(id=id, payload=payload, traceparent=_call_traceparent()).SerializeToString()
        grant = session.Grant(fence=own, id=id, attempt=max(attempt, 1), task=task)
        supervisor.receive(session.ConnectResponse(grants=[grant]))
        return True

    async def stop(self, id: str) -> bool:
        """Stops a task and waits for its end. Returns whether the worker had it.

        Raises:
            Refusal: when it still runs after 15 s.
        """
        found = next(((fence, started) for fence, started in self._running.items() if started.id == id), None)
        if found is None:
            return False
        fence, started = found
        self._supervisor.receive(session.ConnectResponse(cancelled=[fence]))
        started.stops += 1
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await started.ended.wait()
        except TimeoutError:
            message = f"task {id!r} still runs after {_STOP_TIMEOUT:g} s"
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "STILL_RUNNING", message) from None
        finally:
            # Also when the caller has given up: then TaskComplete reports the end.
            started.stops -= 1
        return True

    async def _stay_member(self, leader: RenewedStub, completions: Completions) -> None:
        name, address = self._supervisor.options.name, self._advertise or self.address
        delay = RETRY_FIRST
        while True:
            self._beat.clear()
            is_joining = False
            try:
                if not self._is_member:
                    # Set before the call, because _report may have the worker join once more meanwhile.
                    self._is_member = is_joining = True
                    await leader.Join(leader_pb2.JoinRequest(id=name, address=address), timeout=self._timeout)
                    is_joining = False
                    logger.info("joined", extra={"address": address})
                    completions.meet_leader()
                    # Set before the first heartbeat, because a worker that stops before it has to say goodbye too.
                    self.connected = True
                    self.welcomed.set()
                beat = leader_pb2.HeartbeatRequest(id=name, status=self._status())
                await leader.Heartbeat(beat, timeout=self._timeout)
                self.connected = True
                delay = RETRY_FIRST
                await self._pause(_HEARTBEAT_INTERVAL)
            except grpc.aio.AioRpcError as error:
                # It joins again only when the leader does not know it, because whoever joins loses its tasks.
                if is_joining or error.code() is grpc.StatusCode.NOT_FOUND:
                    self._is_member = False
                if self.connected or delay == RETRY_FIRST:
                    reason = refusal_of(error).message or error.code().name
                    logger.warning("not a member, trying again", extra={"reason": reason})
                self.connected = False
                await asyncio.sleep(delay)
                delay = min(RETRY_MAX, delay * 2)

    def _status(self) -> leader_pb2.HeartbeatStatus.ValueType:
        if self._supervisor.draining:
            return leader_pb2.HEARTBEAT_STATUS_FAILED
        # A task whose end the leader has not heard counts too, because the leader takes tasks back from an idle member.
        busy = self._running or self._telling
        return leader_pb2.HEARTBEAT_STATUS_BUSY if busy else leader_pb2.HEARTBEAT_STATUS_IDLE

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._beat.wait()
        except TimeoutError:
            pass

    async def _report_for_ever(self, completions: Completions) -> None:
        supervisor = self._supervisor
        async with asyncio.TaskGroup() as group:
            told: set[asyncio.Task[None]] = set()
            while not supervisor.has_left:
                await supervisor.wake.wait()
                supervisor.wake.clear()
                if supervisor.draining and not self._told_draining:
                    self._told_draining = True
                    self._beat.set()
                request = supervisor.take(1 << 20)
                if request is None:
                    continue
                for progress in request.progress:
                    self._progress[progress.fence] = progress
                    self._progressed.set()
                for report in request.reports:
                    # Each in a task of its own: a report that cannot be told yet holds up no other.
                    task = group.create_task(self._report(completions, report))
                    told.add(task)
                    task.add_done_callback(told.discard)
            for task in told:
                task.cancel()

    async def _report(self, completions: Completions, report: session.Report) -> None:
        fence = report.fence
        started = self._running.pop(fence, None) or Started(report.id, 0)
        self._telling[fence] = started
        self._progress.pop(fence, None)
        try:
            is_all = await completions.tell(started, report)
        finally:
            # StopWork returns only after the report, because that says more than that the task no longer runs.
            started.ended.set()
            del self._telling[fence]
        if not is_all and not self._supervisor.draining:
            # A worker that drains leaves, and then the leader takes the task back too.
            self._is_member = False
            self._beat.set()
        self._supervisor.receive(session.ConnectResponse(acknowledged=[fence]))

    async def _tell_progress(self, completions: Completions) -> None:
        while True:
            await self._progressed.wait()
            self._progressed.clear()
            latest, self._progress = self._progress, {}
            untold = {}
            for fence, progress in latest.items():
                started = self._running.get(fence)
                if started is not None and not await completions.tell_progress(started, progress):
                    untold[fence] = progress
            if untold:
                # A task may never tell more. What it has told meanwhile is newer.
                self._progress = untold | self._progress
                await asyncio.sleep(RETRY_MAX)
                self._progressed.set()

    async def _leave(self, leader: RenewedStub) -> None:
        try:
            await leader.Leave(leader_pb2.LeaveRequest(id=self._supervisor.options.name), timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            logger.warning("could not say goodbye", extra={"reason": refusal_of(error).message})


class _LeaderCalls:
    """What a callback worker calls at the leader's LeaderService."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub: Any = leader_pb2_grpc.LeaderServiceStub(channel)
        self.Join, self.Leave = stub.Join, stub.Leave
        # One request, one response: the same bytes for leaders that declare the method unary, client-streaming or
        # bidirectional.
        self.Heartbeat: Any = channel.unary_unary(
            "/cluster.v1.LeaderService/Heartbeat",
            request_serializer=leader_pb2.HeartbeatRequest.SerializeToString,
            response_deserializer=leader_pb2.HeartbeatResponse.FromString,
        )


def _call_traceparent() -> str:
    """Returns the trace context of the call that is served, for the attempt to link to; "" where nothing is traced."""
    if not is_traced():
        return ""
    # OpenTelemetry is imported only where it is used.
    from opentelemetry.trace import get_current_span

    from gowork.base.spans import traceparent_of

    return traceparent_of(get_current_span().get_span_context())


class _WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, member: CallbackWorker) -> None:
        self._member = member

    async def StartWork(  # noqa: N802 - the contract's name
        self, request: worker_pb2.StartWorkRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.StartWorkResponse:
        await self._member.check_caller(context)
        if not request.id:
            await abort(context, invalid([FieldViolation("id", "must not be empty")]))
        success = self._member.start(request.id, request.payload, request.fence, request.attempt)
        return worker_pb2.StartWorkResponse(success=success)

    async def StopWork(  # noqa: N802 - the contract's name
        self, request: worker_pb2.StopWorkRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> worker_pb2.StopWorkResponse:
        await self._member.check_caller(context)
        if not request.id:
            await abort(context, invalid([FieldViolation("id", "must not be empty")]))
        try:
            success = await self._member.stop(request.id)
        except Refusal as refusal:
            await abort(context, refusal)
        return worker_pb2.StopWorkResponse(success=success)
