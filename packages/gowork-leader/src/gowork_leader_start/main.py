"""The console script `gowork-leader`."""

from __future__ import annotations

import os
import sys

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import end_on_interrupt, ending_on_interrupt


def main() -> None:
    """Runs the command, if the namespace `gowork` is this project's."""
    with ending_on_interrupt():
        exit_if_foreign("gowork-leader")
        from gowork.base.local_probes import check_and_exit, is_plain_check

        if is_plain_check(sys.argv[1:]):
            check_and_exit("leader", os.environ.get("GOWORK_NAME") or None)
        # Otherwise gRPC writes to standard error itself, past the log, and waits for the reader of it. It reads this
        # variable when it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gowork.leader._app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
