"""The gRPC ground that gowork's packages share: channels, errors on the wire, limits, reflection, a probe listener."""

from gowork.proto._version import __version__

__all__ = ["__version__"]
