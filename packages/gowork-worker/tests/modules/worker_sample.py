"""Handlers that the tests' runner processes import."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time

from gowork.worker import Context, Fail, handler
from gowork.worker.processes import Warden


@handler
def noop() -> None:
    pass


@handler
def add(numbers: list[int]) -> int:
    return sum(numbers)


@handler
async def add_async(numbers: list[int]) -> int:
    return sum(numbers)


@handler
def pid() -> int:
    return os.getpid()


@handler(isolation="process")
def isolated_pid() -> int:
    return os.getpid()


@handler
def stubborn(ctx: Context) -> None:
    """Says that it runs and heeds nothing."""
    ctx.progress(0.5, str(os.getpid()))
    threading.Event().wait()


@handler(grace=0.2)
def stubborn_for_long(ctx: Context) -> None:
    ctx.progress(0.5, str(os.getpid()))
    threading.Event().wait()


@handler
def until_cancelled(ctx: Context) -> str:
    ctx.progress(0.5, str(os.getpid()))
    ctx.cancelled.wait()
    return ctx.cancelled.reason


@handler
async def forever(ctx: Context) -> None:
    ctx.progress(0.5, str(os.getpid()))
    await asyncio.Event().wait()


@handler(isolation="process")
def isolated_stubborn(ctx: Context) -> None:
    ctx.progress(0.5, str(os.getpid()))
    threading.Event().wait()


@handler(time_limit=0.2, grace=0.2)
def stubborn_past_its_limit(ctx: Context) -> None:
    threading.Event().wait()


@handler
def exit_with(code: int) -> None:
    os._exit(code)


@handler
def with_child(ctx: Context) -> None:
    """Starts a child that would outlive everything, and tells its process id."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    ctx.progress(0.5, f"{os.getpid()} {child.pid}")
    threading.Event().wait()


@handler
def tell(ctx: Context) -> None:
    """Writes to the pipe that the payload names, and returns at once."""
    with open(ctx.payload, "w") as pipe:
        pipe.write("told")


@handler
def with_guarded_child(ctx: Context) -> None:
    """Starts a child in a session of its own, and a warden that guards it."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    warden = Warden()
    warden.guard(child.pid)
    ctx.progress(0.5, f"{os.getpid()} {warden.pid} {child.pid}")
    threading.Event().wait()


@handler
def with_escaped_child(ctx: Context) -> None:
    """Starts a child that gets all that it can inherit, and that is in no group which ends with the worker."""
    child = subprocess.Popen(["sleep", "1000"], close_fds=False, start_new_session=True)
    ctx.progress(0.5, str(child.pid))
    threading.Event().wait()


@handler
def fail_for_good() -> None:
    raise Fail("it cannot be done")


def _ask() -> None:
    """Logs as a library does that knows nothing of tasks."""
    logging.getLogger("some.library").info("asked", extra={"raw": b"\xff", "task_id": "theirs"})


@handler
def log_in_thread() -> None:
    _ask()


@handler
async def log_on_loop() -> None:
    _ask()
    await asyncio.to_thread(_ask)


@handler(isolation="process")
def log_alone() -> None:
    _ask()


@handler
async def hog(ctx: Context, seconds: float) -> None:
    """Keeps the runner's loop from ticking."""
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point


@handler
def surroundings() -> dict[str, str | bool | None]:
    """What a runner has of prometheus_client."""
    return {
        "imported": "prometheus_client" in sys.modules,
        "directory": os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
    }
