"""Starts the command `gowork`."""

from __future__ import annotations

import os
import sys

from gowork.base.beginnings import end_on_interrupt, ending_on_interrupt, open_standard_streams


def main() -> None:
    """Runs the command line and exits."""
    with ending_on_interrupt():
        open_standard_streams()
        # gRPC logs to standard error by itself, not through Python's logging. It reads this variable when it is
        # imported, so that the imports come after.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gowork.cli.output import never_refuse
        from gowork.cli.root import cli
    never_refuse(sys.stdout)
    try:
        cli(prog_name="gowork")
    finally:
        # From here on Ctrl-C ends the process at once, although threads and buffers may be left.
        end_on_interrupt()
