"""The command line of gowork. gowork.cli.main starts it; gowork.cli.root has the group of commands."""

from gowork.cli._version import __version__

__all__ = ["__version__"]
