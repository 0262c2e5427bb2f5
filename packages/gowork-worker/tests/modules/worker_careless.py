"""Handlers that leave their process in another state than they found it."""

from __future__ import annotations

import asyncio
import decimal
import gc
import json
import locale
import logging
import logging.config
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from gowork.worker import Context, handler


def _environment() -> None:
    os.environ["HOME"] = "/elsewhere"
    del os.environ["PATH"]


def _time_zone() -> None:
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()


def _logging_configured() -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True, "root": {"level": "CRITICAL"}})


def _frozen_time() -> None:
    time.time = time.monotonic = lambda: 0.0
    time.sleep = lambda seconds: None


def _no_json() -> None:
    json.dumps = json.loads = json.JSONEncoder.encode = None  # type: ignore[assignment, method-assign]


def _no_output() -> None:
    sys.stdout.close()
    sys.stderr.close()


def _redirected_output() -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it is left behind


#: {what changes: changes it}
CHANGES: dict[str, Callable[[], Any]] = {
    "directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "alarm": lambda: signal.alarm(3600),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C.UTF-8"),
    "environment": _environment,
    "time zone": _time_zone,
    "log level": lambda: logging.getLogger().setLevel(logging.CRITICAL),
    "log handlers": lambda: logging.basicConfig(handlers=[logging.NullHandler()], force=True),
    "log off": lambda: logging.disable(logging.CRITICAL),
    "log configuration": _logging_configured,
    "module path": lambda: sys.path.__setitem__(slice(2), ["/elsewhere"]),
    "recursion limit": lambda: sys.setrecursionlimit(200),
    "switch interval": lambda: sys.setswitchinterval(1.0),
    "socket timeout": lambda: socket.setdefaulttimeout(0.001),
    "decimal precision": lambda: setattr(decimal.getcontext(), "prec", 1),
    "warnings": lambda: warnings.simplefilter("error"),
    "garbage collector": gc.disable,
    "loop policy": lambda: asyncio.set_event_loop_policy(_Policy()),
    "time": _frozen_time,
    "json": _no_json,
    "closed streams": _no_output,
    "other streams": _redirected_output,
    "closed descriptors": lambda: os.closerange(0, 3),
    "resource limits": lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    ),
    "log record factory": lambda: logging.setLogRecordFactory(lambda *values, **more: None),  # type: ignore[arg-type]
    "logger class": lambda: logging.setLoggerClass(_Logger),
    "processor time": lambda: signal.setitimer(signal.ITIMER_PROF, 3600.0),
}


def _exception_handler() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)


#: The same, for what only the loop's thread can change.
CHANGES_ON_LOOP: dict[str, Callable[[], Any]] = {
    "signal handlers": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "signal of the loop": lambda: asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: None),
    "exception handler": _exception_handler,
    "debugging": lambda: asyncio.get_running_loop().set_debug(True),
}


class _Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        raise RuntimeError("no loop for anybody")


class _Logger(logging.Logger):
    """Logs nothing."""

    def isEnabledFor(self, level: int) -> bool:
        return False


@handler
def change(what: str) -> None:
    CHANGES[what]()


@handler
async def change_on_loop(what: str) -> None:
    (CHANGES | CHANGES_ON_LOOP)[what]()


@handler
def change_and_hold(ctx: Context, what: str) -> str:
    """Makes the change, and goes on until it is told to stop. Says whether the change held."""
    CHANGES[what]()
    ctx.progress(0.5, "changed")
    ctx.cancelled.wait()
    return os.getcwd()


class _Own(BaseException):
    """Derives from nothing that anybody catches."""


_ENDS: dict[str, Callable[[], Any]] = {
    "sys.exit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: _throw(KeyboardInterrupt()),
    "SystemExit": lambda: _throw(SystemExit()),
    "GeneratorExit": lambda: _throw(GeneratorExit()),
    "CancelledError": lambda: _throw(asyncio.CancelledError()),
    "StopIteration": lambda: _throw(StopIteration()),
    "of its own": lambda: _throw(_Own()),
}


def _throw(error: BaseException) -> None:
    raise error


@handler
def end(how: str) -> None:
    _ENDS[how]()


@handler
async def end_on_loop(how: str) -> None:
    _ENDS[how]()


@handler
def leave_thread() -> None:
    """Leaves a thread that goes on, and raises in another one."""
    threading.Thread(target=threading.Event().wait).start()
    threading.Thread(target=_throw, args=(ValueError("in a thread"),)).start()


@handler
async def leave_task() -> None:
    """Leaves an asyncio task that goes on, and one that raises."""

    async def fail() -> None:
        raise ValueError("in a task")

    _left.extend([asyncio.ensure_future(asyncio.Event().wait()), asyncio.ensure_future(fail())])


_left: list[Any] = []


@handler
def leave_descriptors(number: int) -> None:
    _left.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(number))


@handler
def use_up_descriptors() -> None:
    """Leaves a tenth of the descriptors that its process may have. There are fewer here, so that it takes less time."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, most))
    while os.open(os.devnull, os.O_RDONLY) < 180:
        pass


@handler
def replace_output() -> None:
    """Closes standard output, and opens a file, which gets its number."""
    os.close(1)
    _left.append(os.open(os.devnull, os.O_WRONLY))


@handler
def flood_logs(lines: int) -> None:
    for number in range(lines):
        logging.getLogger("careless").warning("line %d", number)


@handler
def flood_output(mib: int) -> None:
    """Writes lines that are as short as they can be to the descriptor itself."""
    for _ in range(mib * 16):
        os.write(1, b"\n" * (64 << 10))


@handler
def abort() -> None:
    os.abort()


@handler
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@handler
def leave() -> None:
    os._exit(0)


@handler
def add_to_surroundings(value: str) -> None:
    os.environ["GOWORK_TEST_ADDED"] = value
    sys.path.insert(0, value)


@handler
def surroundings() -> list[str | None]:
    return [os.environ.get("GOWORK_TEST_ADDED"), sys.path[0], sys.path[-1]]
