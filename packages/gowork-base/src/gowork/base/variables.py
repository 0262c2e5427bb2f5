"""Options that come from variables of the environment, and how errors name them."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Parameter(Protocol):
    """What is needed of click.Parameter; click itself belongs to the programs alone."""

    @property
    def name(self) -> str | None:
        """As in Python."""

    @property
    def opts(self) -> list[str]:
        """As on the command line."""


class Context(Protocol):
    """What is needed of click.Context."""

    @property
    def auto_envvar_prefix(self) -> str | None:
        """What the names of variables begin with."""

    def get_parameter_source(self, name: str) -> Enum | None:
        """Where a value came from."""


def hint_of(context: Context, parameter: Parameter | None) -> str | None:
    """How an error should name an option whose value a variable gave; None where none did."""
    if parameter is None or parameter.name is None:
        return None
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name != "ENVIRONMENT":
        return None
    return f"{' / '.join(map(repr, parameter.opts))} (variable {context.auto_envvar_prefix}_{parameter.name.upper()})"
