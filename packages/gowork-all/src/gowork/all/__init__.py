"""Nothing but a version: gowork-all installs the packages that a cluster on one machine needs."""

from gowork.all._version import __version__

__all__ = ["__version__"]
