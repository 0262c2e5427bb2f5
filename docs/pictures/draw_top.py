"""Draws top.svg, one frame of `gowork top`: of a real cluster at work, of which a worker has just been killed.

Run by `nox -s pictures`. The addresses and processes are those of this run; the picture names the default address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from gowork.cli.screen import screen
from gowork.client import Client, Liveness, NewTask
from gowork.client.frames import WINDOW_S, Frame, Lookout

PICTURE = Path(__file__).with_name("top.svg")
WIDTH, HEIGHT = 132, 29
#: How long the cluster works before it is drawn, in seconds: the window of the rates, and the first of them.
WORK_SECONDS = WINDOW_S + 3
FREE_PORTS = [
    *(part for port in ("cluster", "scheduler", "http") for part in (f"--{port}-listen", "127.0.0.1:0")),
    *("--workers-http-port", "0"),
]
HANDLERS = """
import random
import time

from gowork.worker import Context, handler


@handler("resize")
def resize(ctx: Context, number: int) -> None:
    time.sleep(random.uniform(0.05, 0.2))


@handler("send")
def send(ctx: Context, number: int) -> None:
    time.sleep(random.uniform(0.02, 0.1))
    if number % 23 == 0:
        raise RuntimeError(f"mailbox {number} is full")


@handler("train")
def train(ctx: Context, number: int) -> None:
    time.sleep(2)
"""


def main() -> None:
    """Starts the cluster, lets it work, kills a worker and draws."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        (Path(folder) / "picture_handlers.py").write_text(HANDLERS)
        addresses = stack.enter_context(cluster(folder))
        gpu = stack.enter_context(worker(folder, addresses["cluster"], "gpu-1", "--slots", "2", "--label", "gpu=yes"))
        spot = stack.enter_context(worker(folder, addresses["cluster"], "spot-7", "--slots", "4"))
        client = stack.enter_context(Client(addresses["scheduler"]))
        set_up(client)
        lookout = Lookout(client)
        end, killed = time.monotonic() + WORK_SECONDS, False
        for number in range(sys.maxsize):
            frame = lookout.look()
            late = time.monotonic() > end - WINDOW_S / 2
            if late and not killed:
                spot.kill()
                killed = True
            lost = any(member.liveness is Liveness.LOST for member in frame.members)
            if time.monotonic() > end and lost:
                break
            # More images than are resized in this time, fewer mails than their limit allows.
            schedule(client, "images", "resize", range(number * 70, number * 70 + 70))
            schedule(client, "mail", "send", range(number * 12, number * 12 + 12))
            time.sleep(0.25)
        assert gpu.poll() is None
        PICTURE.write_text(svg(dataclasses.replace(frame, address="127.0.0.1:50052")))


def set_up(client: Client) -> None:
    """Queues with limits and a pause, and tasks that wait for each of the reasons."""
    client.configure_queue("mail", concurrency_limit=4, weight=3)
    client.pause_queue("billing")
    schedule(client, "billing", "send", range(40))
    schedule(client, "reports", "report", range(12))
    tasks = [NewTask(number, id=f"nightly-{number}", delay=3600.0 * number) for number in range(1, 25)]
    list(client.schedule_many(tasks, handler="send", queue="nightly"))
    schedule(client, "models", "train", range(60), selector={"gpu": "yes"})


def schedule(
    client: Client, queue: str, handler: str, numbers: Sequence[int], selector: dict[str, str] | None = None
) -> None:
    """One task for each number."""
    tasks = [NewTask(number, id=f"{queue}-{number}") for number in numbers]
    list(client.schedule_many(tasks, handler=handler, queue=queue, selector=selector))


def svg(frame: Frame) -> str:
    """The frame as a terminal of this size shows it."""
    out = Console(
        record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    out.print(screen(frame, WIDTH, HEIGHT, 0.0, 1.0))
    # Without the fonts that it would load from elsewhere: a page that shows the picture may not want that.
    return re.sub(r"@font-face \{.*?\}\s*", "", out.export_svg(title="gowork top", unique_id="top"), flags=re.DOTALL)


@contextlib.contextmanager
def cluster(folder: str) -> Iterator[dict[str, str]]:
    """`gowork up` in this folder."""
    command = ["gowork.cli", "up", *FREE_PORTS, "--data-dir", folder, "--print-addresses", "--workers", "2"]
    with process(folder, *command, "--slots", "8", "--import", "picture_handlers") as up:
        assert up.stdout is not None
        yield json.loads(up.stdout.readline())


@contextlib.contextmanager
def worker(folder: str, leader: str, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A worker, once it has joined."""
    command = ["gowork.worker", "--leader", leader, "--name", name, "--import", "picture_handlers"]
    state = ["--state-dir", f"{folder}/{name}", "--print-ready"]
    with process(folder, *command, *state, *options) as started:
        assert started.stdout is not None
        assert started.stdout.readline()
        yield started


@contextlib.contextmanager
def process(folder: str, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of this Python that is stopped at the end."""
    command = [sys.executable, "-m", module, *arguments]
    # Of the plugins that are installed here, one is enough for a picture.
    env = {**os.environ, "GOWORK_PLUGIN": "shell"}
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as started:
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
