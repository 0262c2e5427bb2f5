"""Generates the reference of the commands, and that of the configuration: options, and variables of the environment."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
from site_pages import HERE, ROOT
from site_text import prose

from gowork.cli.root import cli
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

#: How wide the help is drawn, in columns.
_COLUMNS = 88
#: Variables that the sources name as the beginning of several.
_PREFIXES = frozenset({"GOWORK_ETCD_", "GOWORK_TLS_"})


def tree(
    command: click.Command = cli, name: str = "gowork", above: click.Context | None = None
) -> Iterator[click.Context]:
    """All commands below this one, itself included, each as a context with its help."""
    context = click.Context(command, info_name=name, parent=above, terminal_width=_COLUMNS, max_content_width=_COLUMNS)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from tree(found, below, context)


def commands_page() -> str:
    """The page of all commands, each with its help."""
    text = [
        "# Commands",
        "`gowork-leader` and `gowork-worker` are the same commands as `gowork leader` and `gowork worker`.",
    ]
    for context in tree():
        level = "#" * min(4, 2 + context.command_path.count(" "))
        text.append(f"{level} {context.command_path}\n\n```text\n{context.command.get_help(context)}\n```")
    return "\n\n".join(text) + "\n"


def option_variables(command: click.Command) -> dict[str, click.Option]:
    """The variables that a command's options are set by: {variable: option}."""
    prefix = str(command.context_settings.get("auto_envvar_prefix", ""))
    found = {}
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value and option.name:
            found[str(option.envvar or f"{prefix}_{option.name.upper()}")] = option
    return found


def other_variables() -> dict[str, str]:
    """What the variables mean that belong to no option: {variable: meaning}."""
    text = (HERE / "variables.toml").read_text(encoding="utf-8")
    return {str(name): str(meaning) for name, meaning in tomllib.loads(text).items()}


def named_variables() -> set[str]:
    """The variables that the sources of the packages name."""
    found: set[str] = set()
    for path in ROOT.glob("packages/*/src/**/*.py"):
        found |= set(re.findall(r"(?<![A-Z_])GOWORK_[A-Z_]+", Path(path).read_text(encoding="utf-8")))
    # The prefixes stand for the names that are built from them.
    return found - _PREFIXES


def configuration_page() -> str:
    """The page of all options and variables."""
    text = [
        "# Configuration",
        "An option counts more than its variable, and a variable more than the file of `--config`, where options have "
        "their long names. Durations are in seconds, unless the option says otherwise.",
    ]
    for name, command in (("The leader", leader), ("The worker", worker)):
        rows = [
            f"| `{max(option.opts, key=len)}` | `{variable}` | {_words(option)} |"
            for variable, option in sorted(option_variables(command).items())
        ]
        text.append(f"## {name}\n\n| option | variable | what it does |\n|---|---|---|\n" + "\n".join(rows))
    rows = [f"| `{name}` | {prose(meaning)} |" for name, meaning in sorted(other_variables().items())]
    text.append("## Other variables\n\n| variable | what it says |\n|---|---|\n" + "\n".join(rows))
    return "\n\n".join(text) + "\n"


def _words(option: click.Option) -> str:
    return prose(" ".join((option.help or "").split()))
