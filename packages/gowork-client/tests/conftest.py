"""A scripted leader for the client's tests: it keeps tasks in memory, finishes them when told to, and shows faults that
a real leader can't be made to show. What a leader does with tasks is tested against the real one, in
test_client_cluster.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Full, Queue
from typing import Any, TypeAlias

import grpc
import pytest
from google.protobuf.message import Message

from gowork.client import AsyncClient, Client
from gowork.client import _submissions as submissions
from gowork.client._async import submitting as async_submitting
from gowork.client._leader_fields import KNOWN_HERE
from gowork.client._sync import submitting
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as pb_grpc
from gowork.proto.status import Refusal, status_of

COMPLETED = pb.TASK_STATUS_COMPLETED
#: A length of time after which a test fails, in seconds.
PATIENCE = 60.0
#: {token of a page: that of the next}
_NEXT = {"": "second", "second": "third", "third": ""}
#: Requests of a stream, and None when there is something else to look at.
_News: TypeAlias = "Queue[pb.SubmitTasksRequest | None]"


class ScriptedLeader(pb_grpc.SchedulerServiceServicer, cluster_grpc.LeaderServiceServicer):
    """Takes tasks; what it does besides is what the test put into `faults`."""

    def __init__(self) -> None:
        #: HOST:PORT, once it serves.
        self.address = ""
        self.tasks: dict[str, pb.Task] = {}
        #: The requests of each method, in the order of their arrival.
        self.requests: dict[str, list[object]] = {}
        #: Deadlines of the calls, in seconds, by method.
        self.timeouts: dict[str, list[float]] = {}
        #: What happens to the next calls of a method: called before they are served, in turn.
        self.faults: dict[str, deque[Callable[[], None]]] = {}
        #: Refusals of calls that were carried out.
        self.breaks: dict[str, Refusal] = {}
        #: Refusals of ScheduleTasks by the id of a task in it.
        self.refused: dict[str, Refusal] = {}
        #: The fields that it says it reads.
        self.request_fields = sorted(KNOWN_HERE)
        #: Methods that it does not have. Without SubmitTasks each task is a call of its own, which most tests count.
        self.lacks = {"SubmitTasks"}
        #: With what it refuses every call; None to answer.
        self.refusal: Refusal | None = None
        #: How many streams of submissions are open, and how many were opened.
        self.streams = self.opened = 0
        #: How long a result may be that is answered on a stream.
        self.stream_result_max = 1000
        self._news: list[_News] = []
        #: The hint in its answers: the address of the one that leads.
        self.hint = ""
        #: Whether tasks finish as they come; else the test calls finish.
        self.finishes_at_once = True
        #: What it says of the leaders.
        self.leaders = cluster.LeadersResponse()
        #: Whether it answers pings. It still answers other calls.
        self.answers_pings = True
        self._changed = threading.Condition()

    def fail_next(self, method: str, refusal: Refusal, times: int = 1) -> None:
        def fault() -> None:
            raise refusal

        self.faults.setdefault(method, deque()).extend([fault] * times)

    def run_next(self, method: str, action: Callable[[], None]) -> None:
        self.faults.setdefault(method, deque()).append(action)

    def breaks_after(self, method: str, refusal: Refusal) -> None:
        """Has the next call of a method carried out, and then refused."""
        self.breaks[method] = refusal

    def until_asked(self, method: str, times: int) -> None:
        """Waits until a method was called so often."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests.get(method, ())) >= times, 60)

    def until_on_streams(self, what: str, number: int) -> None:
        """Waits until `number` of the `waits` or `given_up` have come on streams."""

        def come() -> bool:
            requests: list[Any] = self.requests.get("SubmitTasks", [])
            return sum(len(getattr(request, what)) for request in requests) >= number

        with self._changed:
            assert self._changed.wait_for(come, PATIENCE)

    def finish(self, *ids: str, result: str = "null") -> None:
        with self._changed:
            for id in ids:
                task = pb.Task(id=id, status=COMPLETED, result=result)
                self.tasks[id].MergeFrom(task)
            self._changed.notify_all()
        for news in self._news:
            _tell(news)

    def ScheduleTask(self, request: pb.ScheduleTaskRequest, context: grpc.ServicerContext) -> pb.ScheduleTaskResponse:
        self._enter("ScheduleTask", request, context)
        self._add([request.task])
        if broken := self.breaks.pop("ScheduleTask", None):
            context.abort(broken.code, broken.message)
        return pb.ScheduleTaskResponse()

    def SubmitTasks(
        self, requests: Iterator[pb.SubmitTasksRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SubmitTasksResponse]:
        self.streams += 1
        self.opened += 1
        news: _News = Queue(1)
        ended = threading.Event()
        self._news.append(news)
        context.add_callback(lambda: _tell(news))
        threading.Thread(target=_read, args=(requests, news, ended, context)).start()
        #: {number: id}
        waits: dict[int, str] = {}
        try:
            while not ended.is_set() or not news.empty() or (waits and context.is_active()):
                request, answers = news.get(), []
                if request is not None:
                    self._enter("SubmitTasks", request, context)
                    answers = [self._submit(submission) for submission in request.submissions]
                    waits |= {wait.number: wait.call.id for wait in request.waits}
                    for number in request.given_up:
                        waits.pop(number, None)
                if broken := self.breaks.pop("SubmitTasks", None):
                    context.abort(broken.code, broken.message)
                over = [number for number, id in waits.items() if self._is_over(id)]
                finished = [self._finished(number, waits.pop(number)) for number in over]
                if answers or finished:
                    yield pb.SubmitTasksResponse(answers=answers, finished=finished)
                news.task_done()
        finally:
            self._news.remove(news)
            self.streams -= 1
            self._wake()

    def _is_over(self, id: str) -> bool:
        return id not in self.tasks or self.tasks[id].status == COMPLETED

    def _finished(self, number: int, id: str) -> pb.SubmissionWaitAnswer:
        answer = pb.SubmissionWaitAnswer(number=number)
        if refusal := self.refused.get(id):
            answer.refusal = status_of(refusal).SerializeToString()
        elif len(self.tasks[id].result) <= self.stream_result_max:
            answer.task.CopyFrom(self.tasks[id])
        return answer

    def _submit(self, submission: pb.Submission) -> pb.SubmissionAnswer:
        answer = pb.SubmissionAnswer(number=submission.number)
        if refusal := self.refused.get(submission.call.task.id):
            answer.refusal = status_of(refusal).SerializeToString()
        else:
            self._add([submission.call.task])
        return answer

    def seen(self) -> tuple[int, int]:
        """How many calls of ScheduleTask, and how many messages of streams, it got."""
        return len(self.requests.get("ScheduleTask", ())), len(self.requests.get("SubmitTasks", ()))

    def until_streams(self, number: int) -> None:
        """Waits until `number` streams of submissions are open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.streams == number, 60)

    def ScheduleTasks(
        self, request: pb.ScheduleTasksRequest, context: grpc.ServicerContext
    ) -> pb.ScheduleTasksResponse:
        self._enter("ScheduleTasks", request, context)
        self._add(list(request.tasks))
        return pb.ScheduleTasksResponse(created=len(request.tasks))

    def RetryTask(self, request: pb.RetryTaskRequest, context: grpc.ServicerContext) -> pb.RetryTaskResponse:
        self._enter("RetryTask", request, context)
        return pb.RetryTaskResponse()

    def GetTask(self, request: pb.GetTaskRequest, context: grpc.ServicerContext) -> pb.GetTaskResponse:
        self._enter("GetTask", request, context)
        return pb.GetTaskResponse(task=pb.Task(id=request.id, payload="old"))

    def CancelTasks(self, request: pb.CancelTasksRequest, context: grpc.ServicerContext) -> pb.CancelTasksResponse:
        """Three pages, the first of which has the empty token."""
        self._enter("CancelTasks", request, context)
        if broken := self.breaks.pop("CancelTasks", None):
            context.abort(broken.code, broken.message)
        return pb.CancelTasksResponse(cancelled=2, asked=1, next_page_token=_NEXT[request.page_token])

    def RetryTasks(self, request: pb.RetryTasksRequest, context: grpc.ServicerContext) -> pb.RetryTasksResponse:
        """As CancelTasks. The first page has no tasks."""
        self._enter("RetryTasks", request, context)
        if broken := self.breaks.pop("RetryTasks", None):
            context.abort(broken.code, broken.message)
        tasks = 2 if request.page_token else 0
        return pb.RetryTasksResponse(retried=tasks, left=tasks // 2, next_page_token=_NEXT[request.page_token])

    def BackupStore(
        self, request: pb.BackupStoreRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.BackupStoreResponse]:
        self._enter("BackupStore", request, context)
        yield pb.BackupStoreResponse(data=b"store", total_bytes=5)

    def GetLeader(self, request: pb.GetLeaderRequest, context: grpc.ServicerContext) -> pb.GetLeaderResponse:
        self._enter("GetLeader", request, context)
        return pb.GetLeaderResponse(version="9.9.9", request_fields=self.request_fields)

    def Activity(self, request: pb.ActivityRequest, context: grpc.ServicerContext) -> pb.ActivityResponse:
        self._enter("Activity", request, context)
        return pb.ActivityResponse(version="0.1.0")

    def WaitTasks(self, request: pb.WaitTasksRequest, context: grpc.ServicerContext) -> Iterator[pb.WaitTasksResponse]:
        self._enter("WaitTasks", request, context)
        out = list(request.ids)
        context.add_callback(self._wake)
        while done := self._wait_for_finished(out, context):
            out = [id for id in out if id not in done]
            tasks = list(done.values())
            for start in range(0, len(tasks), 1000):
                yield pb.WaitTasksResponse(tasks=tasks[start : start + 1000])
                self._enter("WaitTasks.between", request, context)

    def WaitTask(self, request: pb.WaitTaskRequest, context: grpc.ServicerContext) -> pb.WaitTaskResponse:
        self._enter("WaitTask", request, context)
        context.add_callback(self._wake)
        return pb.WaitTaskResponse(task=self._wait_for_finished([request.id], context).get(request.id))

    def WatchTasks(
        self, request: pb.WatchTasksRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchTasksResponse]:
        self._enter("WatchTasks", request, context)
        token = int(request.token or len(self.tasks))
        context.add_callback(self._wake)
        if not request.token:
            yield pb.WatchTasksResponse(token=str(token))
        while new := self._wait_for_new(token, context):
            token += len(new)
            yield pb.WatchTasksResponse(tasks=new, token=str(token))
            self._enter("WatchTasks.between", request, context)

    def Leaders(self, request: cluster.LeadersRequest, context: grpc.ServicerContext) -> cluster.LeadersResponse:
        self._enter("Leaders", request, context)
        return self.leaders

    def says_leads(self, term: int, address: str, *others: str) -> None:
        """Has it say that the leader at this address leads, and that there are others."""
        self.leaders = cluster.LeadersResponse(log=cluster.Log(generation="g"))
        self.leaders.leaders.add(leads=True, term=term, scheduler_address=address)
        for other in others:
            self.leaders.leaders.add(scheduler_address=other)

    def _ping(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.setdefault("Check", []).append(request)
        self._wake()
        while not self.answers_pings and context.is_active():
            with self._changed:
                context.add_callback(self._wake)
                self._changed.wait()
        return b""

    def ping_handlers(self) -> grpc.GenericRpcHandler:
        """Answers pings."""
        return grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(self._ping)}
        )

    def _wait_for_finished(self, ids: list[str], context: grpc.ServicerContext) -> dict[str, pb.Task]:
        """Those of the tasks that have finished, at least one; none when there are none to wait for or the caller is
        gone.
        """
        with self._changed:
            while ids and context.is_active():
                if done := {id: self.tasks[id] for id in ids if self.tasks[id].status == COMPLETED}:
                    return done
                self._changed.wait()
        return {}

    def _wait_for_new(self, known: int, context: grpc.ServicerContext) -> list[pb.Task]:
        """The tasks that came after that many; none when the caller is gone."""
        with self._changed:
            while context.is_active():
                if new := list(self.tasks.values())[known:]:
                    return new
                self._changed.wait()
        return []

    def _enter(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        if method in self.lacks:
            # As gRPC itself says it.
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        # A copy: what is added to the tasks below would show in it.
        self.requests.setdefault(method, []).append(type(request).FromString(request.SerializeToString()))
        self._wake()
        self.timeouts.setdefault(method, []).append(context.time_remaining() or 0.0)
        if self.hint:
            context.set_trailing_metadata((("gowork-leader", self.hint),))
        try:
            if self.refusal is not None:
                raise self.refusal
            if fault := self.faults.get(method):
                fault.popleft()()
            for task in getattr(request, "tasks", ()):
                if task.id in self.refused:
                    raise self.refused[task.id]
        except Refusal as refusal:
            status = status_of(refusal)
            hint = [("gowork-leader", self.hint)] if self.hint else []
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()), *hint))
            context.abort(refusal.code, status.message)

    def _add(self, tasks: list[pb.Task]) -> None:
        with self._changed:
            for task in tasks:
                task.status = COMPLETED if self.finishes_at_once else pb.TASK_STATUS_PENDING
                if self.finishes_at_once:
                    task.result = task.payload
                self.tasks.setdefault(task.id, task)
            self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _read(
    requests: Iterator[pb.SubmitTasksRequest], news: _News, ended: threading.Event, context: grpc.ServicerContext
) -> None:
    with contextlib.suppress(grpc.RpcError):
        for request in requests:
            # A stream that is held reads no more, and one that has broken takes no more.
            while context.is_active():
                with contextlib.suppress(Full):
                    news.put(request, timeout=0.5)
                    break
            while context.is_active() and news.unfinished_tasks:
                threading.Event().wait(0.001)
    ended.set()
    _tell(news)


def _tell(news: _News) -> None:
    # When it is full, it is looked at anyway.
    with contextlib.suppress(Full):
        news.put_nowait(None)


class Caller:
    """Either client, called from threads."""

    def __init__(self, *addresses: str, kind: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop() if kind == "async" else None
        self._pool = ThreadPoolExecutor(100)
        options.setdefault("timeout", PATIENCE)
        if self._loop is None:
            self.client: Any = Client(list(addresses), **options)
        else:
            self._thread = threading.Thread(target=self._loop.run_forever)
            self._thread.start()
            self.client = AsyncClient(list(addresses), **options)

    def start(self, payload: object, id: str) -> Any:
        """Schedules a task. The future has what `schedule` returns or raises."""
        if self._loop is None:
            return self._pool.submit(self.client.schedule, payload, id=id)
        return asyncio.run_coroutine_threadsafe(self.client.schedule(payload, id=id), self._loop)

    def wait(self, id: str, timeout: float | None = None) -> Any:
        """Waits for a task. The future has what `wait` returns or raises."""
        if self._loop is None:
            return self._pool.submit(self.client.wait, [id], timeout)
        return asyncio.run_coroutine_threadsafe(self.client.wait([id], timeout), self._loop)

    def schedule(self, id: str, payload: object = "p") -> None:
        handle = self.start(payload, id).result(PATIENCE)
        assert handle.id == id

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Gives calls that begin meanwhile this deadline."""
        self.client._settings.timeout = seconds
        yield
        self.client._settings.timeout = PATIENCE

    def close(self) -> None:
        if self._loop is None:
            self.client.close()
        else:
            asyncio.run_coroutine_threadsafe(self.client.close(), self._loop).result(PATIENCE)

    def end(self) -> None:
        self.close()
        self._pool.shutdown()
        if self._loop is not None:
            left = asyncio.run_coroutine_threadsafe(self._left(), self._loop).result(PATIENCE)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            assert not left

    async def _left(self) -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("gowork-")]


class Ports:
    """Serves scripted leaders, each on ports of its own."""

    def __init__(self) -> None:
        self._servers: dict[str, tuple[grpc.Server, ThreadPoolExecutor]] = {}

    def serve(self, leader: ScriptedLeader, address: str = "127.0.0.1:0") -> str:
        """Serves a leader, and answers the address."""
        pool = ThreadPoolExecutor(max_workers=40, thread_name_prefix="scripted")
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", 8 << 20),
            # Without probes the window of a stream stays small: how much gRPC takes that nobody reads is no chance.
            ("grpc.http2.bdp_probe", 0),
        ]
        server = grpc.server(pool, options=options)
        pb_grpc.add_SchedulerServiceServicer_to_server(leader, server)
        cluster_grpc.add_LeaderServiceServicer_to_server(leader, server)
        server.add_generic_rpc_handlers((leader.ping_handlers(),))
        address = f"{address.rpartition(':')[0]}:{server.add_insecure_port(address)}"
        server.start()
        self._servers[address] = server, pool
        return address

    def stop(self, address: str) -> None:
        """Ends a server at once: the calls that it serves break."""
        server, pool = self._servers.pop(address)
        server.stop(None).wait()
        pool.shutdown()

    def stop_all(self) -> None:
        for address in list(self._servers):
            self.stop(address)


@pytest.fixture
def ports() -> Iterator[Ports]:
    ports = Ports()
    yield ports
    ports.stop_all()


@pytest.fixture
def scripted(ports: Ports) -> ScriptedLeader:
    """A scripted leader; its address is `scripted.address`."""
    leader = ScriptedLeader()
    leader.address = ports.serve(leader)
    return leader


@pytest.fixture
def other(ports: Ports) -> ScriptedLeader:
    """A second one."""
    leader = ScriptedLeader()
    leader.address = ports.serve(leader)
    return leader


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """An event for faults that hold a call back; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that connects and says nothing, as that of a leader whose process is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def free_address() -> Iterator[str]:
    """An address where nothing listens: it is bound meanwhile, so that nobody else comes to listen there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


@pytest.fixture
def streams(scripted: Any, other: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both leaders take streams. Nothing is late before the test is."""
    for leader in (scripted, other):
        leader.lacks.clear()
    monkeypatch.setattr(submissions, "AVOIDED_SECONDS", PATIENCE)
    for module in (submitting, async_submitting):
        monkeypatch.setattr(module, "ANSWER_SECONDS", PATIENCE)
        monkeypatch.setattr(module, "IDLE_SECONDS", PATIENCE)


@pytest.fixture(params=["blocking", "async"])
def calling(request: Any) -> Iterator[Callable[..., Caller]]:
    """Makes callers of either kind."""
    made: list[Caller] = []

    def make(*addresses: str, **options: Any) -> Caller:
        made.append(Caller(*addresses, kind=request.param, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()
