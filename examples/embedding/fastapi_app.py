"""FastAPI: client and worker live as long as the application. `uvicorn fastapi_app:app`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gowork.client import AsyncClient
from gowork.worker import Worker, handler


@handler
def double(number: int) -> int:
    return 2 * number


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    leader = os.environ.get("WORKER_LEADER", "127.0.0.1:50051")
    async with Worker(leader, handlers=[double], runners=1), AsyncClient() as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/double/{number}")
async def answer(number: int) -> int:
    handle = await app.state.client.schedule(number, handler=double)
    return await handle.result(int)
