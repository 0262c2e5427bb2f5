"""Completes ids of tasks and members, and names of handlers, queues and schedules, in a shell.

It asks the leader, for at most a second. If the leader does not answer, it completes nothing, and reports no error.
"""

from __future__ import annotations

from itertools import islice

import click

from gowork.cli.options import CommonOptions
from gowork.client import Client, GoworkError

_TIMEOUT_S = 1.0
_SUGGESTIONS_MAX = 50


def complete_task_id(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of the newest tasks that begin with `incomplete`."""
    try:
        with _client(context) as client:
            found = client.tasks(id_prefix=incomplete or None, newest_first=True, page_size=_SUGGESTIONS_MAX)
            return [task.id for task in islice(found, _SUGGESTIONS_MAX)]
    except (GoworkError, ValueError):
        return []


def complete_handler(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the handlers of the cluster's workers that begin with `incomplete`."""
    try:
        with _client(context) as client:
            names = {name for member in client.members() for name in member.handlers}
    except (GoworkError, ValueError):
        return []
    return sorted(name for name in names if name.startswith(incomplete))


def complete_queue(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of queues that begin with `incomplete`."""
    try:
        with _client(context) as client:
            return [queue.name for queue in client.queues() if queue.name.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def complete_member(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of members that begin with `incomplete`."""
    try:
        with _client(context) as client:
            return [member.id for member in client.members() if member.id.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def complete_schedule(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of schedules that begin with `incomplete`."""
    try:
        with _client(context) as client:
            return [found.name for found in client.schedules.list() if found.name.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def complete_group(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the ids of groups that begin with `incomplete`."""
    try:
        with _client(context) as client:
            return [found.id for found in client.groups.list() if found.id.startswith(incomplete)]
    except (GoworkError, ValueError):
        return []


def _client(context: click.Context) -> Client:
    options = context.ensure_object(CommonOptions)
    return Client(options.leader, timeout=_TIMEOUT_S, patience=0, keys="", tls=options.tls_files)
