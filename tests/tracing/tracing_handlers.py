"""The handlers of these tests; the tests copy this file into the workers' working directory."""

import logging
import os
import signal
import sys
import threading

from gowork.worker import Context, Snooze, handler


@handler
def work(ctx: Context) -> None:
    with ctx.tracer.start_as_current_span("inner"):
        pass


@handler
async def work_async(ctx: Context) -> None:
    with ctx.tracer.start_as_current_span("inner"):
        pass


@handler(isolation="process")
def work_alone(ctx: Context) -> None:
    with ctx.tracer.start_as_current_span("inner"):
        pass


@handler
def fails() -> None:
    raise ValueError("no such thing")


@handler
def flaky(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ValueError("not yet")


@handler
def sleepy(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise Snooze("later", delay=0.01)


@handler
def dies_once(ctx: Context) -> None:
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@handler
def until_told(ctx: Context) -> None:
    """Reports progress, so that the test knows that it runs, and waits to be cancelled; in its first attempt alone."""
    if ctx.attempt == 1:
        ctx.progress(0.5)
        ctx.cancelled.wait()


@handler
def stubborn(ctx: Context) -> None:
    threading.Event().wait()


@handler
def follows(ctx: Context) -> None:
    ctx.schedule(handler="work")


@handler
def says() -> None:
    logging.getLogger("some.library").info("said")


@handler
async def says_async() -> None:
    logging.getLogger("some.library").info("said")


@handler(isolation="process")
def says_alone() -> None:
    logging.getLogger("some.library").info("said")


@handler
def loaded(ctx: Context) -> list[str]:
    """Returns the names of the loaded modules of OpenTelemetry's SDK, and of its threads."""
    with ctx.tracer.start_as_current_span("inner"):
        pass
    modules = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
    return modules + [thread.name for thread in threading.enumerate() if "otel" in thread.name.lower()]
