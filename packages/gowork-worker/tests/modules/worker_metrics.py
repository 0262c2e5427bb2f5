"""Handlers that keep metrics, for the tests' runner processes to import."""

import os
import subprocess
import sys
import threading

from prometheus_client import Counter, Gauge, Histogram

from gowork.worker import Context, handler

CUPS = Counter("coffee_cups", "Cups served.", ["kind"])
SECONDS = Histogram("coffee_brewing_seconds", "How long it took.", buckets=(1, 5))
LEVEL = Gauge("coffee_level", "What is left.", multiprocess_mode="livesum")
BEST = Gauge("coffee_best", "The best ever.", multiprocess_mode="max")
OURS = Counter("gowork_worker_runners_lost", "A name that is not the handler's to take.")

_IN_CHILD = """
from prometheus_client import Counter
Counter("coffee_cups", "Cups served.", ["kind"]).labels("child").inc()
"""


def _brew(kind: str) -> None:
    CUPS.labels(kind).inc()
    SECONDS.observe(2)
    LEVEL.set(1)
    BEST.set(5)
    OURS.inc(1000)


@handler
def brew(kind: str) -> None:
    _brew(kind)


@handler
def brew_and_wait(ctx: Context, kind: str) -> None:
    _brew(kind)
    ctx.progress(0.5, str(os.getpid()))
    ctx.cancelled.wait()


@handler(isolation="process")
def brew_and_die(kind: str) -> None:
    _brew(kind)
    os._exit(3)


@handler
def brew_in_child() -> None:
    subprocess.run([sys.executable, "-c", _IN_CHILD], check=True)


@handler
async def hang(ctx: Context) -> None:
    """Keeps the runner's loop from ticking."""
    ctx.progress(0.5)
    threading.Event().wait()
