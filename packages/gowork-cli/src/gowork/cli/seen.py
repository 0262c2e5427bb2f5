"""Does something to several tasks, one by one, and fetches each task afterwards.

A task for which it was done is printed even if the task cannot be fetched, or the next tasks fail.
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
    """The tasks for which it was done, and the errors of the others."""

    #: (id, task) for each success; the task is None when it could not be fetched.
    done: list[tuple[str, TaskInfo | None]] = field(default_factory=list)
    #: The leader's refusals for single tasks.
    refused: list[CallError] = field(default_factory=list)
    #: The error that ended the work: later tasks were not tried.
    ended: CallError | None = None

    def records(self) -> Iterable[Record]:
        """Yields a record for each success, which has only the id if the task could not be fetched."""
        for task_id, task in self.done:
            yield {"id": task_id} if task is None else task_record(task, explained=True)

    def exit(self) -> None:
        """Prints the refusals, and exits with 1 if there are any. Call it after printing the successes.

        Raises:
            CallError: the error in `ended`.
        """
        for refusal in self.refused:
            click.echo(f"gowork: {refusal}", err=True)
        if self.ended is not None:
            raise self.ended
        if self.refused:
            click.get_current_context().exit(EXIT_FAILED)


def do_to_each(client: Client, ids: Iterable[str], act: Callable[[str], None]) -> Outcome:
    """Calls `act` once for each id, until a call fails otherwise than by NotFound or FailedPrecondition."""
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
    """Fetches the task; None when the leader is too old, has removed the task since, or does not answer."""
    try:
        return client.get(task_id)
    except CallError:
        return None
