"""Handlers that keep their own record of what ran, and handlers that run until the test lets them go.

Records and gates lie in the worker's working directory, which is the test's folder.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from functools import cache
from pathlib import Path

from gowork.worker import Cancel, Context, Fail, Retry, Snooze, handler

FOLDER = Path.cwd()


@cache
def _record() -> int:
    # Each process has a file of its own. What was written stays there when the process is killed.
    return os.open(FOLDER / f"{os.getpid()}.record", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@handler
def counted(ctx: Context) -> None:
    """Records that it ran."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())


@handler
def gated(ctx: Context) -> int:
    """Tells the test that it runs, and in which processes; ends when its gate is opened."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())
    child_or_none: subprocess.Popen[bytes] | _no_child = (
        subprocess.Popen(["sleep", "1000"]) if ctx.payload == "child" else _no_child()
    )
    with child_or_none as child:
        _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} {child.pid}")
        with (FOLDER / f"{ctx.id}.gate").open() as gate:
            gate.readline()
        child.kill()
    _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} {child.pid}")
    return ctx.attempt


@handler
def resuming(ctx: Context) -> list[int]:
    """Hands on which attempts there were, tells so, and waits at its gate."""
    seen = [*(ctx.last_checkpoint or []), ctx.attempt]
    ctx.checkpoint(seen)
    ctx.progress(0.5, f"attempt {ctx.attempt}")
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    with (FOLDER / f"{ctx.id}.gate").open() as gate:
        gate.readline()
    return seen


@handler
def blocking(ctx: Context) -> None:
    """Waits at its gate within C, and lets no other Python run in its process meanwhile."""
    with (FOLDER / f"{ctx.id}.gate").open("rb", buffering=0) as gate:
        _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
        # PyDLL keeps the interpreter's lock during the call.
        ctypes.PyDLL(None).read(gate.fileno(), ctypes.create_string_buffer(16), ctypes.c_size_t(3))


@handler
def watchful(ctx: Context) -> None:
    """Runs, in its first attempt, until its worker has lost its lease."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    while ctx.attempt == 1 and ctx.lease_valid:
        # A handler's own work: it asks now and then, because `lease_valid` is a value and no event.
        time.sleep(0.01)
    _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} 0")


@handler(on_lease_lost="stop")
async def leashed(ctx: Context) -> None:
    """Runs, in its first attempt, until it is stopped."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    try:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
    finally:
        _tell(f"{'left' if ctx.lease_valid == (ctx.attempt > 1) else 'wrong'} {ctx.id} {ctx.attempt} {os.getpid()} 0")


@handler
def deadly(ctx: Context) -> None:
    """Ends its runner in each attempt."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())
    if ctx.payload == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGSEGV if ctx.payload == "crash" else signal.SIGKILL)


@handler("stay-thread", grace=0.5)
def stay_thread(ctx: Context) -> None:
    """Runs until it is asked to stop if its payload is "heeds", otherwise for ever."""
    _stay(ctx)


@handler("stay-process", isolation="process", grace=0.5)
def stay_process(ctx: Context) -> None:
    """Does the same as stay-thread, alone in a process."""
    _stay(ctx)


@handler("stay-async", grace=0.5)
async def stay_async(ctx: Context) -> None:
    """Does the same as stay-thread, on the loop."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if ctx.payload == "heeds":
                assert ctx.cancelled
                _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} 0")
                raise


def _stay(ctx: Context) -> None:
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    if ctx.payload != "heeds":
        threading.Event().wait()
    ctx.cancelled.wait()
    _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} 0")


@handler(grace=60)
def reluctant(ctx: Context) -> None:
    """Stops only when it has been asked to and its gate is opened."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    ctx.cancelled.wait()
    _tell(f"asked {ctx.id} {ctx.attempt} {os.getpid()} 0")
    with (FOLDER / f"{ctx.id}.gate").open() as gate:
        gate.readline()


@handler(max_attempts=3, retry_delay=0.05, no_retry=[KeyError])
def steered(ctx: Context) -> int:
    """Fails, snoozes, retries or cancels as its payload says."""
    match ctx.payload:
        case "value":
            raise ValueError("no luck")
        case "key":
            raise KeyError("gone")
        case "snooze" if ctx.attempt < 3:
            raise Snooze(delay=0.05)
        case "retry" if ctx.attempt < 3:
            raise Retry("later", delay=0.2)
        case "cancel":
            raise Cancel("withdrawn")
        case "fail":
            raise Fail("hopeless")
        case "again":
            raise Fail("hopeless, or perhaps not", retry=True)
        case _:
            pass
    return ctx.attempt


@handler(isolation="process")
def hungry(ctx: Context) -> int:
    """Allocates more memory than its process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.RLIM_INFINITY))
    return len(bytearray(8 << 30))


class _no_child:  # noqa: N801 - it is called as a function is
    pid = 0

    def __enter__(self) -> _no_child:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def kill(self) -> None:
        pass


def _tell(line: str) -> None:
    with (FOLDER / "news").open("a") as news:
        # One write of less than PIPE_BUF, so that lines of several processes do not mix.
        news.write(line + "\n")
