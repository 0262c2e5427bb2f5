"""How a program of gowork begins: it opens missing standard streams, and Ctrl-C ends it without a traceback.

Only the entry points of programs call this, before the imports that take long.
"""

from __future__ import annotations

import os
import sys

from gowork_namespace.interrupts import EXIT_INTERRUPTED, end_interrupted, end_on_interrupt, ending_on_interrupt

__all__ = [
    "EXIT_INTERRUPTED",
    "end_interrupted",
    "end_on_interrupt",
    "ending_on_interrupt",
    "give_up_standard_output",
    "open_standard_streams",
]


def open_standard_streams() -> None:
    """Opens /dev/null for each standard stream that the process was started without.

    Otherwise the next files and sockets would get these numbers, and receive what is printed. Standard input is empty.
    Standard error discards what it gets. Writing to standard output fails, because nobody gets the program's answer.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The system gives the lowest free number, which is this one.
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def give_up_standard_output() -> None:
    """Discards what is still buffered for standard output, because the interpreter would report it as an error."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        # It is no file, as in a test or a notebook.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
