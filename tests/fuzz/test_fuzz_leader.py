"""A leader answers whatever it is sent, names the caller's fault as such, and goes on working."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clusters import RunningLeader
from fuzz_calls import CALL_SECONDS, FUZZ, Call, calls, make, methods_of, open_channel
from hypothesis import example, given
from hypothesis import strategies as st

from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.worker.v1 import session_pb2, session_pb2_grpc

METHODS = methods_of("cluster.v1.LeaderService", "scheduler.v1.SchedulerService", "worker.v1.SessionService")
(CONNECT,) = [method for method in METHODS if method.name == "Connect"]
(SCHEDULE,) = [method for method in METHODS if method.name == "ScheduleTasks"]
#: A name that no call of the fuzzer uses.
_MINE = "task-of-the-test"


class Checked:
    """A leader that is checked after each sequence of calls."""

    def __init__(self, leader: RunningLeader, channel: grpc.Channel, log: Path) -> None:
        self.channel = channel
        self._process = leader.process
        self._log = log
        self._read = 0
        self._numbers = itertools.count(1)
        self._scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._sessions = session_pb2_grpc.SessionServiceStub(channel)

    def still_works(self) -> None:
        """Submits a task and completes it as a worker; fails if that fails or if the log shows a defect."""
        name = f"{_MINE}-{next(self._numbers)}"
        task = scheduler_pb2.Task(id=name, handler=name, queue=name)
        self._scheduler.ScheduleTask(scheduler_pb2.ScheduleTaskRequest(task=task), timeout=CALL_SECONDS)
        hello = session_pb2.Hello(name=name, instance=name, slots=1, handlers=[session_pb2.HandlerInfo(name=name)])
        outgoing: queue.SimpleQueue[session_pb2.ConnectRequest | None] = queue.SimpleQueue()
        outgoing.put(session_pb2.ConnectRequest(hello=hello))
        outgoing.put(session_pb2.ConnectRequest(credit=[1]))
        for frame in self._sessions.Connect(iter(outgoing.get, None), timeout=CALL_SECONDS):
            for grant in frame.grants:
                assert grant.id == name
                report = session_pb2.Report(fence=grant.fence, id=name, outcome=scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED)
                outgoing.put(session_pb2.ConnectRequest(reports=[report]))
            if frame.acknowledged:
                outgoing.put(session_pb2.ConnectRequest(conditions=[session_pb2.Condition(leaving=True)]))
        outgoing.put(None)
        found = self._scheduler.GetTask(scheduler_pb2.GetTaskRequest(id=name), timeout=CALL_SECONDS).task
        assert found.status == scheduler_pb2.TASK_STATUS_COMPLETED
        assert self._process.poll() is None
        with self._log.open() as log:
            log.seek(self._read)
            new = log.read()
            self._read = log.tell()
        # For a method that is specified but not served, gRPC itself logs a NotImplementedError.
        assert new.count("Traceback") == new.count("[NotImplementedError]"), new


@pytest.fixture(scope="module")
def checked(leader: RunningLeader, folder: Path) -> Iterator[Checked]:
    with open_channel(leader.scheduler) as channel:
        yield Checked(leader, channel, folder / "gowork-leader.log")


#: An unknown id of 4,000 bytes: an error that quoted it whole was too large for gRPC.
WIDE = Call(
    "/scheduler.v1.SchedulerService/WaitTasks",
    [scheduler_pb2.WaitTasksRequest(ids=["\U0001f600" * 1000]).SerializeToString()],
    False,
    True,
)


@example(sequence=[WIDE])
@FUZZ
@given(sequence=st.lists(calls(METHODS), min_size=1, max_size=6))
def test_any_sequence_of_calls_is_answered_and_breaks_nothing(checked: Checked, sequence: list[Call]) -> None:
    for call in sequence:
        make(checked.channel, call)
    checked.still_works()


@FUZZ
@given(submit=calls([SCHEDULE]), session=calls([CONNECT]))
def test_any_frames_of_a_session_are_answered_and_break_nothing(checked: Checked, submit: Call, session: Call) -> None:
    make(checked.channel, submit)
    make(checked.channel, session)
    checked.still_works()
