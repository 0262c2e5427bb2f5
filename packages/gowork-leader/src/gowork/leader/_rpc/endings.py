"""Ends calls from outside: those too whose caller does not read.

What is being sent can't be taken back from gRPC, and a call that is only cancelled is never told its end. So its status
waits behind what is not read, for a caller that reads it yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from gowork.proto.status import Refusal, abort


class Endings:
    """Keeps the endings that have not reached their callers."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def end(self, serving: asyncio.Task[Any], context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        """Gives a call up.

        Args:
            serving: the task that serves it.
            context: of the call.
            refusal: what its caller is told.
        """
        serving.add_done_callback(lambda _: self._tell(context, refusal))
        serving.cancel()

    def _tell(self, context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        telling = asyncio.get_running_loop().create_task(_abort(context, refusal))
        self._under_way.add(telling)
        telling.add_done_callback(self._under_way.discard)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
    # It always raises: that it has ended the call, or that the call has ended otherwise.
    with contextlib.suppress(Exception):
        await abort(context, refusal)
