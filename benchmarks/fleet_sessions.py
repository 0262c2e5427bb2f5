"""Many workers in one process: each has a session and a connection of its own, and ends its tasks at once.

The result of a task is when its grant arrived, in nanoseconds of the clock that all processes of a machine share.

    python benchmarks/fleet_sessions.py ADDRESS NUMBER
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc

from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.proto.worker.v1 import session_pb2_grpc

SLOTS = 4
#: How many workers connect at once.
_AT_ONCE = 50


class Member:
    """One worker."""

    def __init__(self, address: str, number: int) -> None:
        # A connection of its own; channels with the same options share one.
        channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._call: Any = session_pb2_grpc.SessionServiceStub(channel).Connect()
        self._number = number
        self._writing = asyncio.Lock()
        self._credit = SLOTS

    async def join(self) -> float:
        """Begins the session. Returns the seconds between two heartbeats."""
        name = f"worker-{self._number:05}"
        handlers = [session.HandlerInfo(name="bench.clock")]
        hello = session.Hello(name=name, instance=name, slots=SLOTS, handlers=handlers, version="bench")
        await self._call.write(session.ConnectRequest(hello=hello))
        first = await self._call.read()
        await self._call.write(session.ConnectRequest(credit=[SLOTS]))
        return float(first.welcome.heartbeat_ms / 1000)

    async def live(self, heartbeat: float, share: float) -> None:
        """Sends heartbeats, the first one after `share` of the time between two, and ends tasks."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(heartbeat, share))
            group.create_task(self._work())

    async def _beat(self, seconds: float, share: float) -> None:
        await asyncio.sleep(seconds * share)
        while True:
            async with self._writing:
                await self._call.write(session.ConnectRequest())
            await asyncio.sleep(seconds)

    async def _work(self) -> None:
        while (frame := await self._call.read()) is not grpc.aio.EOF:
            if not frame.grants:
                continue
            arrived = json.dumps(time.monotonic_ns())
            self._credit += len(frame.grants)
            completed = scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED
            reports = [
                session.Report(fence=grant.fence, id=grant.id, outcome=completed, result=arrived)
                for grant in frame.grants
            ]
            async with self._writing:
                await self._call.write(session.ConnectRequest(reports=reports, credit=[self._credit]))
        raise ConnectionError("the leader ended a session")


async def main(address: str, number: int) -> None:
    members = [Member(address, place) for place in range(number)]
    heartbeats: list[float] = []
    for start in range(0, number, _AT_ONCE):
        heartbeats += await asyncio.gather(*(member.join() for member in members[start : start + _AT_ONCE]))
    async with asyncio.TaskGroup() as group:
        for place, (member, heartbeat) in enumerate(zip(members, heartbeats, strict=True)):
            group.create_task(member.live(heartbeat, place / number))
        sys.stdout.write(json.dumps({"heartbeat": heartbeats[0]}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
