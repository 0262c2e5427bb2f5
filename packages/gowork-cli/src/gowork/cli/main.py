"""Where `gowork` begins."""

from __future__ import annotations

import os


def main() -> None:
    """Runs the command line and exits."""
    # gRPC logs to standard error by itself, below Python's logging. It looks at this when it is imported: hence the
    # import here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gowork.cli.root import cli

    cli(prog_name="gowork")
