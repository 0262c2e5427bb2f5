"""Handlers that the tests' runner processes import."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time

from gowork.proto.worker.v1.session_pb2 import Completions, ConnectRequest
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


_meeting: list[asyncio.Event] = []


@handler
async def meet(number: int) -> int:
    """Returns the number as soon as as many tasks as that have come here, all of them in one turn of the loop."""
    own = asyncio.Event()
    _meeting.append(own)
    if len(_meeting) == number:
        for each in _meeting:
            each.set()
        _meeting.clear()
    await own.wait()
    return number


@handler
def pid() -> int:
    return os.getpid()


@handler
def leak(mib: int) -> int:
    """Keeps some memory for ever."""
    _leaked.append(b"x" * (mib << 20))
    return os.getpid()


_leaked: list[bytes] = []


@handler(isolation="process")
def isolated_pid() -> int:
    return os.getpid()


@handler(isolation="process")
def isolated_knows(module: str) -> bool:
    return module in sys.modules


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
def waits(ctx: Context) -> None:
    with ctx.waiting():
        ctx.progress(0.5, str(os.getpid()))
        ctx.cancelled.wait()


@handler
async def waits_async(ctx: Context) -> None:
    with ctx.waiting():
        ctx.progress(0.5, str(os.getpid()))
        await asyncio.Event().wait()


@handler(isolation="process")
def waits_isolated(ctx: Context) -> None:
    with ctx.waiting():
        ctx.progress(0.5, str(os.getpid()))
        ctx.cancelled.wait()


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
    """Keeps the runner's loop from ticking for `seconds`."""
    time.sleep(seconds)  # noqa: ASYNC251 - a handler's own work, which blocks the loop on purpose


@handler
def surroundings() -> dict[str, str | bool | None]:
    """What a runner has of prometheus_client."""
    return {
        "imported": "prometheus_client" in sys.modules,
        "directory": os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
    }


@handler
def close_descriptors(first: int) -> str:
    """Closes all from this one on, as code that makes a daemon of its process does."""
    os.closerange(first, 256)
    return "done"


@handler
async def close_descriptors_async(first: int) -> str:
    os.closerange(first, 256)
    return "done"


@handler
def close_pipe_with_child(ctx: Context) -> None:
    """Closes the runner's sockets while a warden still holds its pipe, and goes on."""
    Warden()
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)
    threading.Event().wait()


@handler
def scribble() -> None:
    """Writes to the runner's pipe what is no frame."""
    os.write(int(sys.argv[1]), b"\x00\x00\x00\x02\x01{]")
    threading.Event().wait()


@handler
def scribble_columns() -> None:
    """Writes to the runner's pipe columns of different lengths."""
    body = ConnectRequest(completions=[Completions(ids=["a"], fences=[1, 2], execution_us=[1])]).SerializeToString()
    os.write(int(sys.argv[1]), len(body).to_bytes(4, "big") + b"\x00" + body)
    threading.Event().wait()


@handler
def fork_and_return() -> str:
    """Both return, as if fork were a function like others; says who the child is."""
    child = os.fork()
    if child == 0:
        return "child"
    return f"parent of {child}"


@handler
def fork_and_raise() -> int:
    child = os.fork()
    if child == 0:
        raise ValueError("in the child")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@handler
async def fork_and_return_async() -> str:
    child = os.fork()
    if child == 0:
        return "child"
    return f"parent of {child}"


@handler
async def fork_and_wait(ctx: Context) -> str:
    """Both wait for the runner's loop, in the child's case a copy of it; forks when `who` takes its turns after it."""
    ctx.progress(0.5, str(os.getpid()))
    while not os.path.exists(ctx.payload):  # noqa: ASYNC110, ASYNC240 - its turns are the point
        await asyncio.sleep(0)
    child = os.fork()
    await asyncio.sleep(0)
    if child == 0:
        return "child"
    return str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # noqa: ASYNC222 - it ends at once


@handler
async def who(ctx: Context) -> list[int]:
    """Answers in which processes its steps have run, while the others fork."""
    ctx.progress(0.5, str(os.getpid()))
    with open(ctx.payload, "a", buffering=1) as notes:  # noqa: ASYNC230 - nobody is kept waiting
        while not ctx.cancelled:
            notes.write(f"{os.getpid()}\n")
            await asyncio.sleep(0)
    return []


@handler
def multiprocessing_fork() -> list[int]:
    """What a pool of forked processes answers, one that was terminated included."""
    context = multiprocessing.get_context("fork")
    sleeper = context.Process(target=threading.Event().wait)
    sleeper.start()
    sleeper.terminate()
    sleeper.join()
    with context.Pool(2) as pool:
        return [*pool.map(abs, [-1, -2]), sleeper.exitcode or 0]


@handler
async def lock_left_behind() -> str:
    """A forked child that runs on; says what it holds of the runner's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"here")
        signal.pause()
    os.read(reader, 4)
    held = [os.readlink(f"/proc/{child}/fd/{number}") for number in map(int, sys.argv[1:2] + sys.argv[4:])]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)  # noqa: ASYNC222 - it has been killed
    return " ".join(held)


@handler
def shout(lines: int) -> int:
    """Prints `lines` lines of 1 KiB."""
    for number in range(lines):
        print(f"{number:06} {'x' * 1016}")
    return lines


@handler
def last_words() -> None:
    """Speaks in every way that there is, and brings its process down."""
    print("printed")
    print("said", file=sys.stderr)
    os.write(1, b"written\n")
    subprocess.run(["echo", "echoed"], check=True)
    os.write(2, b"without an end")
    os._exit(3)
