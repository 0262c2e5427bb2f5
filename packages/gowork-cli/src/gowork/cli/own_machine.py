"""What `gowork doctor` sees of this machine: packages, limits, the disk, and the header of a store.

It writes nothing that outlives the check.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: The packages of this project that may be in one environment.
PACKAGES = (
    "gowork-all",
    "gowork-base",
    "gowork-cli",
    "gowork-client",
    "gowork-leader",
    "gowork-proto",
    "gowork-testing",
    "gowork-worker",
)
#: How often the disk is measured, how much is written each time, and for how long at most: it may be very slow.
_SYNCS = 64
_SYNC_BYTES = 4_096
_MEASURING_SECONDS_MAX = 3.0
#: The file of the default store.
STORE_FILE = "gowork.db"
#: In the header of a file of SQLite: what begins it, and where the format and the application's number are.
#: https://www.sqlite.org/fileformat.html §1.3
_MAGIC = b"SQLite format 3\0"
_FORMAT_AT, _APPLICATION_AT, _HEADER_BYTES = 60, 68, 100
_APPLICATION = b"gowk"
_MOUNTS = Path("/proc/self/mountinfo")


def installed() -> dict[str, str]:
    """Returns the packages of gowork in this environment: {package: its version}."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def open_files_max() -> int | None:
    """Returns how many files a process may have open at most, after it has raised its limit; None: no limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def sync_seconds(directory: Path) -> float:
    """Returns how long a small write takes to be on the disk of a directory: the median, in seconds.

    Raises:
        OSError: nothing can be written there.
    """
    took: list[float] = []
    began = time.monotonic()
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        while len(took) < _SYNCS and time.monotonic() - began < _MEASURING_SECONDS_MAX:
            before = time.perf_counter()
            file.write(bytes(_SYNC_BYTES))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - before)
    return statistics.median(took)


def free_bytes(directory: Path) -> int:
    """Returns the room on the disk of a directory, in bytes."""
    return shutil.disk_usage(directory).free


def file_system(directory: Path, mounts: Path = _MOUNTS) -> str:
    """Returns the kernel's name of the kind of file system that a directory is on; empty where it is unknown."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    place, best, kind = f"{os.path.realpath(directory)}/", "", ""
    for line in lines:
        before, _, behind = line.partition(" - ")
        # Blanks in names are written as \040.
        mounted = before.split(" ")[4].replace("\\040", " ").rstrip("/") + "/"
        # Of two on the same place the later one is seen.
        if place.startswith(mounted) and len(mounted) >= len(best):
            best, kind = mounted, behind.split(" ")[0]
    return kind


def store_format(file: Path) -> int:
    """Returns the format that the header of a store has; 0 for another file.

    Raises:
        OSError: it can't be read.
    """
    if file.is_fifo():
        # To open it would wait for somebody who writes to it.
        return 0
    with file.open("rb") as opened:
        header = opened.read(_HEADER_BYTES)
    is_ours = header.startswith(_MAGIC) and header[_APPLICATION_AT : _APPLICATION_AT + 4] == _APPLICATION
    return int.from_bytes(header[_FORMAT_AT : _FORMAT_AT + 4], "big") if is_ours else 0
