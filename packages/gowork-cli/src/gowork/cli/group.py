"""The click group `gowork`: it imports a command when it is called, finds those of other packages by entry points, and
turns errors into exit codes.

Owns the exit codes: 0 done; 1 a task failed, was cancelled, is unknown or has not finished in time; 2 wrong usage; 3
the leader cannot be reached; 130 interrupted; 141 nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from gowork.base.beginnings import give_up_standard_output
from gowork.base.channels import AddressError, unanswered
from gowork.base.extensions import Extension, ExtensionError, attempt, installed
from gowork.base.telemetry import TelemetryError
from gowork.cli.suggestions import SuggestingGroup
from gowork.client import CodecSetupError, GoworkError, InvalidArgument, LeaderUnreachable

#: The entry point group in which packages contribute commands: name = "module:click_command".
ENTRY_POINT_GROUP = "gowork.commands"
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

#: {command that another package of gowork contributes: (the package, what the command does)}. So `--help` need not
#: import these commands, and a missing one can say how to install it.
Contributed = Mapping[str, tuple[str, str]]
CONTRIBUTED: Contributed = {
    "leader": ("gowork-leader", "Run a leader."),
    "plugin": ("gowork-worker", "Write a plugin of your own, and check it."),
    "plugins": ("gowork-worker", "List the plugins and handlers installed here."),
    "replay": ("gowork-worker", "Run a recorded task's payload through a local handler."),
    "worker": ("gowork-worker", "Run a worker."),
    "worker-check": ("gowork-leader", "Try a worker of any language against the rules of the protocol."),
}


class OpenGroup(SuggestingGroup):
    """A group to which other packages contribute commands. It imports a command only when it is called."""

    def __init__(
        self,
        *args: Any,
        own: Mapping[str, str],
        entry_points: str = ENTRY_POINT_GROUP,
        contributed: Contributed = CONTRIBUTED,
        **attributes: Any,
    ) -> None:
        """Takes the commands of this package, and the arguments of click.Group.

        Args:
            args: for click.Group.
            own: {command: "module:attribute"}.
            entry_points: the group of entry points of the commands that others contribute.
            contributed: those that other packages of gowork contribute.
            attributes: for click.Group.
        """
        super().__init__(*args, **attributes)
        self._own = own
        self._entry_points = entry_points
        self._known = contributed

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self._own, *self._known, *self._contributed()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._own:
            module, _, attribute = self._own[cmd_name].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        entries = self._contributed().get(cmd_name)
        if entries is None:
            return _missing(cmd_name, *self._known[cmd_name]) if cmd_name in self._known else None
        return _load(cmd_name, entries)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(ctx, name)) for name in self.list_commands(ctx)])

    def _summary(self, ctx: click.Context, name: str) -> str:
        if name in self._known:
            package, summary = self._known[name]
            return summary if name in self._contributed() else f"{summary} Needs {package}."
        try:
            command = self.get_command(ctx, name)
            return attempt(lambda: command.get_short_help_str(limit=80), name) if command else ""
        except click.ClickException as error:
            return error.message
        except ExtensionError as error:
            return str(error)

    def _contributed(self) -> dict[str, list[Extension]]:
        """Returns {command: its entry points}. Those of gowork's own packages hide others of the same name."""
        found: dict[str, list[Extension]] = {}
        for extension in installed(self._entry_points):
            found.setdefault(extension.name, []).append(extension)
        for name, (package, _) in self._known.items():
            own = [extension for extension in found.get(name, ()) if extension.distribution == package]
            if own:
                found[name] = own
        return found


class Refused(click.ClickException):
    """What was given is wrong, as the command has found by a look at the cluster; its usage would say nothing."""

    exit_code = EXIT_USAGE


class CommandGroup(OpenGroup):
    """The group `gowork`, which turns errors into exit codes."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Does what click.Group.main does, and handles errors of writing also for `--help` and the like."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            sys.exit(_write_failed(error))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            value = super().invoke(ctx)
            # The flush is here, so that a closed pipe or a full disk is handled before the interpreter reports it.
            sys.stdout.flush()
        except click.UsageError:
            # click prints it with the command's usage, and exits with 2.
            raise
        except click.ClickException as error:
            _say(error.format_message())
            ctx.exit(error.exit_code)
        except LeaderUnreachable as error:
            click.echo(_unreachable(error), err=True)
            ctx.exit(EXIT_UNREACHABLE)
        except (InvalidArgument, AddressError, CodecSetupError, TelemetryError) as error:
            _say(error)
            ctx.exit(EXIT_USAGE)
        except GoworkError as error:
            _say(error)
            ctx.exit(EXIT_FAILED)
        except UnicodeEncodeError as error:
            # The text comes from the command line or the environment. Output takes every character.
            _say(f"{error.object!a} is not UTF-8 text, from character {error.start + 1} on")
            ctx.exit(EXIT_USAGE)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except OSError as error:
            ctx.exit(_write_failed(error))
        return value


def _load(name: str, entries: Sequence[Extension]) -> click.Command:
    if len(entries) > 1:
        origins = " and ".join(entry.origin or entry.value for entry in entries)
        raise click.ClickException(f"the command {name!r} is contributed by {origins}: uninstall all but one")
    (entry,) = entries
    try:
        command = entry.load()
    except ExtensionError as error:
        origin = entry.origin or entry.value
        raise click.ClickException(f"the command {name!r} of {origin} can't be loaded: {error}") from error
    if not isinstance(command, click.Command):
        raise click.ClickException(f"{entry.value}, contributed as the command {name!r}, is not a click command")
    return command


def _missing(name: str, package: str, summary: str) -> click.Command:
    """Makes a command that stands in for one whose package is not installed, and says how to install it."""

    @click.command(
        name,
        help=f"{summary} {need(package)}",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def command() -> None:
        raise click.ClickException(need(package))

    return command


def need(package: str) -> str:
    """Returns the error text for a package that is missing, or too old for the command, with how to install it."""
    try:
        fault = f"{package} {version(package)} is too old"
    except PackageNotFoundError:
        fault = f"{package} is not installed"
    # The package is named by its path, because it is on no index, where its name could be anybody's.
    return f"{fault}. In a checkout of gowork: python3 -m pip install --upgrade ./packages/{package}"


def _write_failed(error: OSError) -> int:
    """Says in one line what could not be written, and returns the exit code.

    Commands handle errors of the files that they open, so that it is mostly standard output that fails here.
    """
    give_up_standard_output()
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    name = "standard output" if error.filename is None else str(error.filename)
    _say(f"{name}: {error.strerror or error}")
    return EXIT_FAILED


def _say(error: Exception | str) -> None:
    click.echo(f"gowork: {error}", err=True)


def _unreachable(error: LeaderUnreachable) -> str:
    if error.answered:
        return f"gowork: {error}"
    if error.handshake:
        return f"gowork: {error}. 'gowork certs check {error.address}' tells more."
    if "," in error.address:
        # It names each address with what was said there.
        words = str(error)
    else:
        reason = f", because its name can't be looked up: {error.unknown_host}" if error.unknown_host else ""
        words = f"{unanswered([error.address])}{reason}"
    return f"gowork: {words}. Start one with 'gowork up', or name another with --leader HOST:PORT or GOWORK_LEADER."
