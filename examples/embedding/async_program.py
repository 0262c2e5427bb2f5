"""A program with an event loop of its own: the worker and the client live beside its work."""

import asyncio
import os

from gowork.client import AsyncClient
from gowork.worker import Worker, handler


@handler
async def double(number: int) -> int:
    return 2 * number


async def main() -> None:
    leader = os.environ.get("WORKER_LEADER", "127.0.0.1:50051")
    async with Worker(leader, handlers=[double], runners=1), AsyncClient() as client:
        handle = await client.schedule(21, handler=double)
        print(await handle.result())


if __name__ == "__main__":
    asyncio.run(main())
