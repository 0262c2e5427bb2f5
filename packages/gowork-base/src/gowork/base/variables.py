"""Says how errors name options whose values come from environment variables."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol


class Parameter(Protocol):
    """The part of click.Parameter that is used here. Only the programs depend on click."""

    @property
    def name(self) -> str | None:
        """The name of the parameter in Python."""

    @property
    def opts(self) -> list[str]:
        """The option's names on the command line."""

    @property
    def envvar(self) -> str | Sequence[str] | None:
        """The names of its variables; None for the prefix and its own name."""


class Context(Protocol):
    """The part of click.Context that is used here."""

    @property
    def auto_envvar_prefix(self) -> str | None:
        """The prefix of the names of environment variables."""

    def get_parameter_source(self, name: str) -> Enum | None:
        """Returns where the value of a parameter came from, such as the environment."""


def hint_of(context: Context, parameter: Parameter | None) -> str | None:
    """Returns how an error should name an option whose value came from a variable; None if it came from elsewhere."""
    if parameter is None or parameter.name is None:
        return None
    source = context.get_parameter_source(parameter.name)
    if source is None or source.name != "ENVIRONMENT":
        return None
    variable = parameter.envvar or f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    return f"{' / '.join(map(repr, parameter.opts))} (variable {variable})"
