"""An index of packages on 127.0.0.1, which takes uploads and serves the simple API."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from release_index import Index

#: Who uploads. The index takes any name and password.
CREDENTIALS = ("--username", "somebody", "--password", "secret")
_STOP_SECONDS = 30.0


@contextmanager
def loopback_index(folder: Path) -> Iterator[Index]:
    """Serves an index whose files are in a folder, until the block ends."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("serve_index.py")), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            base = process.stdout.readline().strip()
            assert base, process.stderr.read()
            yield Index(base, f"{base}simple/", CREDENTIALS)
        finally:
            process.kill()
            process.wait(_STOP_SECONDS)
