"""The console script `gowork-worker`."""

from __future__ import annotations

import os
import sys

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import end_on_interrupt, ending_on_interrupt


def main() -> None:
    """Runs the command. Exits with a message when another project has taken the name `gowork`."""
    with ending_on_interrupt():
        exit_if_foreign("gowork-worker")
        from gowork.base.local_probes import check_and_exit, is_plain_check

        if is_plain_check(sys.argv[1:]):
            check_and_exit("worker", os.environ.get("GOWORK_NAME") or None)
        from gowork.worker._app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
