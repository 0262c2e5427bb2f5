"""The version of this distribution, the same as in its pyproject.toml."""

__version__ = "0.2.0"
