"""What a shell completes besides commands and options: ids of tasks and members, names of handlers.

Asks the leader, for a short time; when it does not answer there is nothing to complete, and nothing to say about it.
"""

from __future__ import annotations

from itertools import islice

import click

from gowork.cli.options import CommonOptions
from gowork.client import Client, GoworkError

_TIMEOUT_S = 1.0
_SUGGESTIONS_MAX = 50


def complete_task_id(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The newest tasks whose id begins so."""
    try:
        with _client(context) as client:
            found = client.tasks(id_prefix=incomplete or None, newest_first=True, page_size=_SUGGESTIONS_MAX)
            return [task.id for task in islice(found, _SUGGESTIONS_MAX)]
    except (GoworkError, ValueError):
        return []


def complete_handler(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The handlers of the workers that are there."""
    try:
        with _client(context) as client:
            names = {name for member in client.members() for name in member.handlers}
    except (GoworkError, ValueError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def complete_queue(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The queues that the leader knows."""
    try:
        with _client(context) as client:
            return [queue.name for queue in client.queues() if queue.name.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def complete_member(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The members that are there."""
    try:
        with _client(context) as client:
            return [member.id for member in client.members() if member.id.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def _client(context: click.Context) -> Client:
    return Client(context.ensure_object(CommonOptions).leader, timeout=_TIMEOUT_S, patience=0)
