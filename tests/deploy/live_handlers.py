"""What the cluster of the live test runs: work that succeeds, fails, crashes, and hangs until it is cancelled."""

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
def crash(payload: str) -> None:
    """Takes its runner with it."""
    os._exit(3)


@handler
async def hang(payload: str) -> None:
    """Runs until it is cancelled."""
    await asyncio.Event().wait()
