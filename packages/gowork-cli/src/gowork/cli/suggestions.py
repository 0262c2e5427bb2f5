"""Suggests commands for one that a group does not have, which may be mistyped."""

from __future__ import annotations

import click

from gowork.base.suggestions import meant


class SuggestingGroup(click.Group):
    """A group that suggests commands with similar names for a command that it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = click.utils.make_str(args[0])
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            ctx.fail(f"no such command {name!r}{meant(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
