"""The options that say how a task is run, for the commands that make tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gowork.cli.completions import complete_handler
from gowork.cli.parameters import duration
from gowork.client import Priority

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_PRIORITIES = [priority for priority in Priority if priority is not Priority.UNSPECIFIED]
#: The rules of --after-rule.
RULES = ["all_completed", "all_finished", "any_failed"]
_OPTIONS = (
    click.option(
        "--handler",
        metavar="NAME",
        shell_complete=complete_handler,
        help="The handler that runs the task.  [default: the worker's default handler]",
    ),
    click.option(
        "--priority",
        type=click.Choice(_PRIORITIES, case_sensitive=False),
        help="HIGH starts before MEDIUM, and MEDIUM before LOW.  [default: low]",
    ),
    click.option("--queue", metavar="NAME", help="The queue in which the task waits.  [default: default]"),
    click.option(
        "--label",
        "labels",
        metavar="KEY=VALUE",
        multiple=True,
        help="A label by which you can find the task. Repeatable.",
    ),
    click.option(
        "--selector",
        metavar="KEY=VALUE",
        multiple=True,
        help="Only workers with this label may run the task. Repeatable.",
    ),
    click.option("--time-limit", type=duration, metavar="DURATION", help="How long one attempt may run."),
    click.option(
        "--expires-in",
        type=duration,
        metavar="DURATION",
        help="If the task has not started within this time, it ends as expired.",
    ),
    click.option(
        "--key",
        "concurrency_key",
        metavar="KEY",
        help="The concurrency key. Tasks of a queue with the same key share a limit; see gowork queues set.",
    ),
    click.option(
        "--plugin-version",
        metavar="RANGE",
        help="Only workers that have the handler from a plugin of such a version may run the task, as in '>=1.2,<2'.",
    ),
    click.option(
        "--on-lost",
        type=click.Choice(["again", "fail"], case_sensitive=False),
        help="fail: if an attempt may have begun and nobody reports how it ended, do not run the task again: it ends "
        "with ERROR.  [default: what its handler says, or again]",
    ),
    click.option("--max-attempts", type=click.IntRange(1, 1000), help="How many attempts the task has."),
)


def task_options(command: FunctionT) -> FunctionT:
    """Gives a command the options that say how a task is run."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
