"""Handlers of another plugin, which say what they find in their process."""

from __future__ import annotations

import asyncio
import decimal
import gc
import json
import locale
import logging
import os
import resource
import signal
import socket
import sys
import time
import warnings
from typing import Any

from gowork.worker import Context, handler

logger = logging.getLogger("neighbour")
#: Python makes it when it is first asked for; some libraries ask while they are imported.
decimal.getcontext()


def _find() -> dict[str, Any]:
    mask = os.umask(0o022)
    os.umask(mask)
    print("printed")
    print("said", file=sys.stderr)
    return {
        "directory": os.getcwd(),
        "umask": mask,
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": {name: os.environ.get(name) for name in ("HOME", "PATH", "TZ")},
        "time zone": time.tzname,
        "log": logger.isEnabledFor(logging.WARNING) and not logger.disabled,
        "log handlers": [str(type(each)) for each in logging.getLogger().handlers],
        # What was added stays, but behind the rest.
        "module path": sys.path[:-1] if sys.path[-1] == "/elsewhere" else sys.path,
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "socket timeout": socket.getdefaulttimeout(),
        "decimal precision": decimal.getcontext().prec,
        "warnings": [str(each) for each in warnings.filters],
        "garbage collector": gc.isenabled(),
        "loop": asyncio.new_event_loop().close(),
        "time": time.time() > 1e9,
        "json": json.loads(json.dumps([1])),
        "file size": resource.getrlimit(resource.RLIMIT_FSIZE),
        "processor time": signal.getitimer(signal.ITIMER_PROF),
        "log record": logging.makeLogRecord({}) is not None,
        "logger class": str(logging.getLoggerClass()),
        "streams": [os.fstat(each).st_mode for each in range(3)],
        "signals": {str(each): str(signal.getsignal(each))[:12] for each in (signal.SIGTERM, signal.SIGUSR1)},
    }


@handler
def complain(words: str) -> None:
    """Logs, and writes a last line to standard error, past all streams."""
    logger.warning(words)
    os.write(2, b"the end\n")


@handler
def find() -> dict[str, Any]:
    return _find()


@handler
async def find_on_loop() -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    return {**_find(), "debugging": loop.get_debug(), "exception handler": str(loop.get_exception_handler())}


@handler
def hold(ctx: Context) -> str:
    """Goes on until it is told to stop. Says how it found its directory at its start and at its end."""
    before = os.getcwd()
    ctx.progress(0.5, "holds")
    ctx.cancelled.wait()
    return f"{before} {os.getcwd()}"
