"""Handlers that note each run: one line, with the pid, in a file that has the task's id as its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gowork.worker import Context, handler


def _note(ctx: Context) -> None:
    with Path(f"{ctx.id}.ran").open("a") as runs:
        runs.write(f"{os.getpid()}\n")


@handler
def noted(ctx: Context, ms: int) -> int:
    """Takes `ms` milliseconds."""
    _note(ctx)
    time.sleep(ms / 1000)
    return ms


@handler
def told(ctx: Context) -> str:
    """Ends when somebody writes to the FIFO `end`."""
    _note(ctx)
    return Path("end").read_text()
