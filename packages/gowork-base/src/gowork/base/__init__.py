"""The modules that gowork's packages share: channels, servers, logs, traces, values, extensions, an HTTP listener."""

from gowork.base._version import __version__

__all__ = ["__version__"]
