"""Tells apart whose cancellation an asyncio.CancelledError is.

gRPC raises the same error when its call was cancelled, as by the end of a channel, as when the asyncio task that waits
for the call was.
"""

from __future__ import annotations

import asyncio


def being_cancelled() -> bool:
    """Whether the asyncio task that runs was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
