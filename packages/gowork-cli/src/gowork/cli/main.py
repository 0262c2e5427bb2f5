"""Where `gowork` begins."""

from __future__ import annotations

import os
import sys

from gowork.base.beginnings import end_on_interrupt, ending_on_interrupt, open_standard_streams


def main() -> None:
    """Runs the command line and exits."""
    with ending_on_interrupt():
        open_standard_streams()
        # gRPC logs to standard error by itself, below Python's logging. It looks at this when it is imported: hence the
        # import here.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gowork.cli.output import never_refuse
        from gowork.cli.root import cli
    never_refuse(sys.stdout)
    try:
        cli(prog_name="gowork")
    finally:
        # Whatever is left to do, threads to wait for and buffers to flush, may be interrupted too.
        end_on_interrupt()
