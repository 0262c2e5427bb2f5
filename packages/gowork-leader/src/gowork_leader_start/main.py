"""The console script `gowork-leader`."""

from __future__ import annotations

import os

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import end_on_interrupt, ending_on_interrupt


def main() -> None:
    """Runs the command, where `gowork` is this project's."""
    with ending_on_interrupt():
        exit_if_foreign("gowork-leader")
        # gRPC writes to standard error by itself, past the log, and waits for whoever reads it. It looks at this when
        # it is imported.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gowork.leader._app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
