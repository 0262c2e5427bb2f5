"""A stream of SubmitTasks, as a client would use it."""

from __future__ import annotations

from typing import Any

import grpc
from google.rpc import status_pb2
from leader_serving import PATIENCE, ServedLeader

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


class Stream:
    """A stream of submissions and waits, and the answers that came so far."""

    def __init__(self, leader: ServedLeader, **keywords: Any) -> None:
        self.call = leader.scheduler.SubmitTasks(timeout=PATIENCE, **keywords)
        #: {number: refusal, or None}
        self.answers: dict[int, status_pb2.Status | None] = {}
        #: {number: answer}
        self.finished: dict[int, pb.SubmissionWaitAnswer] = {}

    async def send(self, tasks: dict[int, pb.Task | None]) -> None:
        """Sends these in one message: {number: task}."""
        submissions = [
            pb.Submission(number=number, call=None if task is None else pb.ScheduleTaskRequest(task=task))
            for number, task in tasks.items()
        ]
        await self.call.write(pb.SubmitTasksRequest(submissions=submissions))

    async def wait_for(self, ids: dict[int, str], given_up: tuple[int, ...] = ()) -> None:
        """Sends these waits in one message: {number: id}."""
        waits = [pb.SubmissionWait(number=number, call=pb.WaitTaskRequest(id=id)) for number, id in ids.items()]
        await self.call.write(pb.SubmitTasksRequest(waits=waits, given_up=given_up))

    async def answer(self, number: int) -> status_pb2.Status | None:
        """The answer to this submission."""
        while number not in self.answers:
            await self._read()
        return self.answers[number]

    async def finish(self, number: int) -> pb.SubmissionWaitAnswer:
        """The answer to this wait."""
        while number not in self.finished:
            await self._read()
        return self.finished[number]

    async def read(self) -> pb.SubmitTasksResponse:
        response = await self.call.read()
        assert response is not grpc.aio.EOF
        return response

    async def _read(self) -> None:
        """Reads answers. Nothing may be answered twice."""
        response = await self.read()
        for answer in response.answers:
            assert answer.number not in self.answers
            refusal = status_pb2.Status.FromString(answer.refusal) if answer.HasField("refusal") else None
            self.answers[answer.number] = refusal
        for finished in response.finished:
            assert finished.number not in self.finished
            self.finished[finished.number] = finished
