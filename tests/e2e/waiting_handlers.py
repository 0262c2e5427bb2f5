"""Handlers that schedule child tasks and wait for them, in each way in which a handler can run."""

from __future__ import annotations

import asyncio
import os

from gowork.client import AsyncClient, Client
from gowork.worker import handler

ADDRESS = os.environ.get("GOWORK_TEST_SCHEDULER", "")


@handler
def plain(depth: int) -> int:
    if not depth:
        return 1
    with Client(ADDRESS) as client:
        children = [client.schedule(depth - 1, handler="plain") for _ in range(2)]
        return 1 + sum(child.result(int) for child in client.as_completed(children))


@handler
async def on_loop(depth: int) -> int:
    if not depth:
        return 1
    async with AsyncClient(ADDRESS) as client:
        children = [await client.schedule(depth - 1, handler="on_loop") for _ in range(2)]
        return 1 + sum(await asyncio.gather(*(child.result(int) for child in children)))


@handler(isolation="process")
def isolated(depth: int) -> int:
    if not depth:
        return 1
    with Client(ADDRESS) as client:
        return 1 + client.schedule(depth - 1, handler="isolated").result(int)
