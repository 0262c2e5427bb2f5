"""How a process of gowork begins: with three standard streams that can be used, and silent when it is interrupted.

To be called by the entry points of programs only, before they import what takes long.
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

    Their numbers would be given to the next files and sockets, which would then receive what is printed. Standard input
    is empty, standard error takes all and keeps nothing. Writing to standard output fails, because nobody gets what the
    program answers.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, mode)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - it lives as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def give_up_standard_output() -> None:
    """Discards what is still buffered for standard output: the interpreter would complain of it at its end."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        # No file: a test's, or a notebook's.
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
