"""A handler that ends when the test tells it to."""

from __future__ import annotations

from pathlib import Path

from gowork.worker import handler


@handler
def told(folder: str) -> str:
    """Opens `begin`, runs until the test writes a word to it, and writes that word to `end`; both are FIFOs."""
    word = (Path(folder) / "begin").read_text()
    with (Path(folder) / "runs").open("a") as runs:
        runs.write(f"{word}\n")
    (Path(folder) / "end").write_text(word)
    return word
