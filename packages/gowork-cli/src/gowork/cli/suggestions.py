"""Suggests known names for an unknown one, which may be mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

import click

#: How many known names are compared with the unknown one, and how many are suggested.
_COMPARED_MAX = 2_000
_OFFERED_MAX = 3


def meant(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message, `; did you mean 'x'?`; empty when no known name is similar."""
    near = get_close_matches(name, list(islice(known, _COMPARED_MAX)), n=_OFFERED_MAX)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


class SuggestingGroup(click.Group):
    """A group that suggests commands with similar names for a command that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = click.utils.make_str(args[0])
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            ctx.fail(f"no such command {name!r}{meant(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
