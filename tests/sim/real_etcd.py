"""A real etcd of one member, which tests start."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: How long it may take to start, in seconds.
_START_SECONDS = 60.0


@contextmanager
def real_etcd(folder: Path, *options: str) -> Iterator[str]:
    """Runs an etcd, and yields its address.

    Args:
        folder: for its data and its log.
        options: further options.
    """
    anywhere = "http://127.0.0.1:0"
    command = [
        "etcd",
        f"--data-dir={folder / 'data'}",
        f"--listen-client-urls={anywhere}",
        f"--advertise-client-urls={anywhere}",
        f"--listen-peer-urls={anywhere}",
        "--unsafe-no-fsync",
        "--logger=zap",
        *options,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _address(process, folder / "log")
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for its log to say which port it has got for clients."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        marks = [line for line in log.read_text().splitlines() if "serving client traffic insecurely" in line]
        if marks:
            return str(json.loads(marks[0])["address"])
        time.sleep(0.02)
    raise AssertionError(f"etcd does not start: {log.read_text()[-2000:]}")
