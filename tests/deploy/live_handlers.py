"""The handlers of the live test's cluster: they succeed, fail, wander, crash, and hang until they are cancelled."""

from __future__ import annotations

import asyncio
import os

from gowork.worker import handler


@handler
def resize(payload: str) -> str:
    """Succeeds."""
    return payload


@handler
def send_mail(payload: str) -> None:
    """Fails."""
    raise ValueError(payload)


@handler
def wander(payload: str) -> None:
    """Leaves its process in another directory, which the runner restores."""
    os.chdir("/")


@handler
def crash(payload: str) -> None:
    """Ends its runner's process."""
    os._exit(3)


@handler
async def hang(payload: str) -> None:
    """Runs until it is cancelled."""
    await asyncio.Event().wait()
