"""Many calls at once are all served, or refused with the number that bounds them."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import grpc
from leader_serving import PATIENCE, serving

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


async def test_thousands_of_calls_at_once_are_all_served(tmp_path: Path) -> None:
    """Beyond 1,000 that wait to be taken, gRPC by itself ends some as CANCELLED, and beyond 3,000 all."""
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        request = pb.GetTaskRequest(id="a")

        async def call() -> str:
            try:
                await leader.scheduler.GetTask(request, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        assert Counter(await asyncio.gather(*(call() for _ in range(3_500)))) == {"OK": 3_500}
