"""The command `gowork`, with this package's commands and those that other packages contribute."""

from __future__ import annotations

import click
from click.core import ParameterSource

from gowork.base.telemetry import start
from gowork.cli._version import __version__
from gowork.cli.group import CONTRIBUTED, CommandGroup
from gowork.cli.options import common_options

#: {command of this package: "module:attribute"}. They are imported when they are called.
_OWN = {
    "add": "gowork.cli.commands.add:add",
    "cancel": "gowork.cli.commands.cancel:cancel",
    "certs": "gowork.cli.commands.certs:certs",
    "change": "gowork.cli.commands.change:change",
    "completion": "gowork.cli.commands.completion:completion",
    "docs": "gowork.cli.commands.docs:docs",
    "doctor": "gowork.cli.commands.doctor:doctor",
    "drain": "gowork.cli.commands.drain:drain",
    "failures": "gowork.cli.commands.failures:failures",
    "groups": "gowork.cli.commands.groups:groups",
    "handlers": "gowork.cli.commands.handlers:handlers",
    "keys": "gowork.cli.commands.keys:keys",
    "tokens": "gowork.cli.commands.tokens:tokens",
    "leaders": "gowork.cli.commands.leaders:leaders",
    "members": "gowork.cli.commands.members:members",
    "protos": "gowork.cli.commands.protos:protos",
    "purge": "gowork.cli.commands.purge:purge",
    "queues": "gowork.cli.commands.queues:queues",
    "remove": "gowork.cli.commands.cancel:remove",
    "retry": "gowork.cli.commands.retry:retry",
    "schedules": "gowork.cli.commands.schedules:schedules",
    "show": "gowork.cli.commands.show:show",
    "stats": "gowork.cli.commands.stats:stats",
    "store": "gowork.cli.commands.store:store",
    "tasks": "gowork.cli.commands.tasks:tasks",
    "top": "gowork.cli.commands.top:top",
    "up": "gowork.cli.commands.up:up",
    "wait": "gowork.cli.commands.wait:wait",
    "why": "gowork.cli.commands.why:why",
}


@click.group(
    cls=CommandGroup,
    own=_OWN,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  gowork up --workers 3
  gowork add --handler hello '{"name": "Ada"}' --wait
  gowork tasks --status RUNNING
  gowork --leader 10.0.0.5:50052 members
  gowork --leader a:50052,b:50052,c:50052 stats  # asks whichever of three leaders leads

\b
Exit codes: 0 done; 1 a task failed, was cancelled, is unknown or has not finished in time;
2 wrong usage; 3 the leader cannot be reached.""",
)
@click.version_option(__version__, prog_name="gowork")
@common_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Start a cluster, schedule tasks, see what runs."""
    if context.invoked_subcommand is not None and context.invoked_subcommand in CONTRIBUTED:
        _check_nothing_is_lost(context, context.invoked_subcommand)
    if context.invoked_subcommand in _OWN:
        # The commands of leader and worker set up tracing themselves, under their own service names.
        telemetry = start("gowork")
        if telemetry is not None:
            context.call_on_close(telemetry.stop)


def _check_nothing_is_lost(context: click.Context, command: str) -> None:
    """Raises: click.UsageError: options stand before a command of another package, which would never see them."""
    given = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{command!r} has options of its own; give {', '.join(given)} behind it")
