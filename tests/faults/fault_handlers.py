"""Handlers that keep a record of their own of what was run, and one that stays until the test lets it go.

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
    # A file for each process: what was written to it is there, whenever the process is killed.
    return os.open(FOLDER / f"{os.getpid()}.record", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@handler
def counted(ctx: Context) -> None:
    """Records that it ran."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())


@handler
def gated(ctx: Context) -> int:
    """Tells the test that it was entered, and by which processes; ends when it is let go."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())
    with subprocess.Popen(["sleep", "1000"]) if ctx.payload == "child" else _no_child() as child:
        _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} {child.pid}")
        with (FOLDER / f"{ctx.id}.gate").open() as gate:
            gate.readline()
        child.kill()
    _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} {child.pid}")
    return ctx.attempt


@handler
def blocking(ctx: Context) -> None:
    """Waits for its gate within C, and lets no other Python run in its process meanwhile."""
    with (FOLDER / f"{ctx.id}.gate").open("rb", buffering=0) as gate:
        _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
        # PyDLL keeps the interpreter's lock during the call.
        ctypes.PyDLL(None).read(gate.fileno(), ctypes.create_string_buffer(16), ctypes.c_size_t(3))


@handler
def watchful(ctx: Context) -> None:
    """The first attempt goes on until its worker has lost its lease."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    while ctx.attempt == 1 and ctx.lease_valid:
        time.sleep(0.01)
    _tell(f"left {ctx.id} {ctx.attempt} {os.getpid()} 0")


@handler(on_lease_lost="stop")
async def leashed(ctx: Context) -> None:
    """The first attempt goes on until it is stopped."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    try:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
    finally:
        _tell(f"{'left' if ctx.lease_valid == (ctx.attempt > 1) else 'wrong'} {ctx.id} {ctx.attempt} {os.getpid()} 0")


@handler
def deadly(ctx: Context) -> None:
    """Ends its runner, each time."""
    os.write(_record(), f"{ctx.id} {ctx.fence}\n".encode())
    if ctx.payload == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGSEGV if ctx.payload == "crash" else signal.SIGKILL)


@handler("stay-thread", grace=0.5)
def stay_thread(ctx: Context) -> None:
    """Stays until it is asked to stop, or for ever."""
    _stay(ctx)


@handler("stay-process", isolation="process", grace=0.5)
def stay_process(ctx: Context) -> None:
    """As stay-thread, alone in a process."""
    _stay(ctx)


@handler("stay-async", grace=0.5)
async def stay_async(ctx: Context) -> None:
    """As stay-thread, on the loop."""
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
    """Takes its time to stop: until it is let go."""
    _tell(f"entered {ctx.id} {ctx.attempt} {os.getpid()} 0")
    ctx.cancelled.wait()
    _tell(f"asked {ctx.id} {ctx.attempt} {os.getpid()} 0")
    with (FOLDER / f"{ctx.id}.gate").open() as gate:
        gate.readline()


@handler(max_attempts=3, retry_delay=0.05, no_retry=[KeyError])
def steered(ctx: Context) -> int:
    """Fails, or steers, as its payload says."""
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
    return ctx.attempt


@handler(isolation="process")
def hungry(ctx: Context) -> int:
    """Wants more memory than there is for its process."""
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
        # One write of less than PIPE_BUF: lines of several processes do not mix.
        news.write(line + "\n")
