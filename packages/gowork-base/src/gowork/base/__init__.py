"""The ground that gowork's packages share: channels and servers, logs, traces, values, extensions, an HTTP listener."""

from gowork.base._version import __version__

__all__ = ["__version__"]
