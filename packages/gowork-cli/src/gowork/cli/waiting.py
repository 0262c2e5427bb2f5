"""Waits for tasks, and says meanwhile why one of them has not been started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from gowork.base.suggestions import meant
from gowork.cli.output import console, harmless
from gowork.client import (
    CallError,
    Client,
    Explanation,
    TaskHandle,
    TaskInfo,
    TaskNotFinished,
    TaskStatus,
    WaitCode,
)

#: How long a wait says nothing at first, in seconds, because most tasks have finished by then.
QUIET_S = 1.0
#: The longest time between two questions why a task waits, in seconds. Each time is twice as long as the one before.
_QUIET_S_MAX = 60.0
#: How long the end of a wait waits for a question to the leader that is under way, in seconds.
_LAST_WORDS_S = 1.0


def wait_telling(client: Client, ids: Sequence[str], timeout: float | None) -> list[TaskInfo]:
    """Waits as Client.wait does. After QUIET_S it says on standard error why a task has not been started.

    It says so again when the reason changes.

    Raises:
        TaskNotFinished, NotFound, CallError: as Client.wait.
    """
    handles: list[TaskHandle | str] = [client.handle(task_id) for task_id in ids]
    end = None if timeout is None else time.monotonic() + timeout
    quiet, told = QUIET_S, ""
    while True:
        left = None if end is None else max(end - time.monotonic(), 0.0)
        try:
            return client.wait(handles, quiet if left is None else min(quiet, left))
        except TaskNotFinished as error:
            if left is not None and left <= quiet:
                raise
            words = _why(client, error.ids[0]) if error.ids else ""
        if words and words != told:
            told = words
            click.echo(f"gowork: {harmless(words)}", err=True)
        quiet = min(2 * quiet, _QUIET_S_MAX)


def spinning(client: Client, ids: Sequence[str], timeout: float | None) -> list[TaskInfo]:
    """Waits as wait_telling does. On a terminal it shows meanwhile what it waits for."""
    what = ids[0] if len(ids) == 1 else f"{len(ids):,} tasks"
    with console(stderr=True).status(f"waiting for {what}"):
        return wait_telling(client, ids, timeout)


def _why(client: Client, task_id: str) -> str:
    """Returns why a task has not been started; empty when it has been started, or when the leader cannot say."""
    try:
        explanation = client.explain(task_id)
        if explanation.status is not TaskStatus.PENDING or not explanation.reasons:
            return ""
        return f"{task_id} waits: {explanation.reasons[0].message}{_handler_meant(client, task_id, explanation)}"
    except CallError:
        # The leader is too old to be asked, or does not answer now. The wait goes on, and reports that if it gives up.
        return ""


def _handler_meant(client: Client, task_id: str, explanation: Explanation) -> str:
    if explanation.reasons[0].code is not WaitCode.NO_HANDLER:
        return ""
    known = sorted({name for member in client.members() for name in member.handlers})
    handler = client.get(task_id).handler
    if handler in known:
        # A worker that is away has it, or one that has connected since.
        return ""
    return meant(handler, known) or (f"; there are {', '.join(known[:10])}" if known else "")


@contextmanager
def telling(client: Client, waits: Callable[[], str]) -> Iterator[None]:
    """Returns a context in which a thread says once, after QUIET_S, why a task has not been started.

    Args:
        client: the client with which to ask.
        waits: returns the id of the task to ask about; empty while there is none.
    """
    over = threading.Event()

    def tell() -> None:
        quiet = QUIET_S
        while not over.wait(quiet):
            if (task_id := waits()) and (words := _why(client, task_id)):
                click.echo(f"gowork: {harmless(words)}", err=True)
                return
            quiet = min(2 * quiet, _QUIET_S_MAX)

    teller = threading.Thread(target=tell, name="gowork-why", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join(_LAST_WORDS_S)
