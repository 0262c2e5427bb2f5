"""Ends calls from outside, including calls whose caller does not read.

A response that gRPC is sending can't be taken back, and the caller of a call that is only cancelled never learns of the
end. So the status waits behind the unread responses, in case the caller does read.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from gowork.proto.status import Refusal, abort


class Endings:
    """Ends calls, and keeps the endings that have not reached their callers."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def end(self, serving: asyncio.Task[Any], context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        """Ends a call.

        Args:
            serving: the asyncio task that serves the call.
            context: the context of the call.
            refusal: what the caller is told.
        """
        serving.add_done_callback(lambda _: self._tell(context, refusal))
        serving.cancel()

    def _tell(self, context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
        telling = asyncio.get_running_loop().create_task(_abort(context, refusal))
        self._under_way.add(telling)
        telling.add_done_callback(self._under_way.discard)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
    # `abort` always raises, whether it ended the call or the call had ended before.
    with contextlib.suppress(Exception):
        await abort(context, refusal)
