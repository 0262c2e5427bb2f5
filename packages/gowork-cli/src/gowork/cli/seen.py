"""Does something to several tasks, one by one, and sees how each stands then.

What was done is told, whether or not the leader can still tell how the task stands, and whatever happens to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import click

from gowork.cli.group import EXIT_FAILED
from gowork.cli.records import Record, task_record
from gowork.client import CallError, Client, FailedPrecondition, NotFound, TaskInfo


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    #: The ids that succeeded, each with the task, or None when the leader does not tell.
    done: list[tuple[str, TaskInfo | None]] = field(default_factory=list)
    #: Why it was not done for others.
    refused: list[CallError] = field(default_factory=list)
    #: What ended it before its end.
    ended: CallError | None = None

    def records(self) -> Iterable[Record]:
        """The tasks that succeeded, or the id alone when no more is known."""
        for task_id, task in self.done:
            yield {"id": task_id} if task is None else task_record(task, explained=True)

    def exit(self) -> None:
        """Says what was not done, and exits accordingly; to be called when the rest is told.

        Raises:
            CallError: which ended it.
        """
        for refusal in self.refused:
            click.echo(f"gowork: {refusal}", err=True)
        if self.ended is not None:
            raise self.ended
        if self.refused:
            click.get_current_context().exit(EXIT_FAILED)


def do_to_each(client: Client, ids: Iterable[str], act: Callable[[str], None]) -> Outcome:
    """Does it to each id once, until the leader answers no more."""
    outcome = Outcome()
    for task_id in dict.fromkeys(ids):
        try:
            act(task_id)
        except (NotFound, FailedPrecondition) as error:
            outcome.refused.append(error)
        except CallError as error:
            outcome.ended = error
            break
        else:
            outcome.done.append((task_id, _seen(client, task_id)))
    return outcome


def _seen(client: Client, task_id: str) -> TaskInfo | None:
    """The task; None when the leader is too old to tell, has removed it since, or answers no more."""
    try:
        return client.get(task_id)
    except CallError:
        return None
