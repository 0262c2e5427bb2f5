"""A handler that ends when it is told to."""

from __future__ import annotations

from pathlib import Path

from gowork.worker import handler


@handler
def told(folder: str) -> str:
    """Runs from when `begin` is opened until it is written, and tells `end` so: both are FIFOs."""
    word = (Path(folder) / "begin").read_text()
    with (Path(folder) / "runs").open("a") as runs:
        runs.write(f"{word}\n")
    (Path(folder) / "end").write_text(word)
    return word
