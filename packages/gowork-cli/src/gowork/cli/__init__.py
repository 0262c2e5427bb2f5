"""The command line of gowork."""

from gowork.cli.main import cli, main

__all__ = ["cli", "main"]
