"""Generated from the protos beside this file by `nox -s protos`; the protos' comments are the reference."""

from gowork.proto._version import __version__

__all__ = ["__version__"]
