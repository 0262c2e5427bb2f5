"""Waits for tasks, and tells meanwhile why one of them has not been started."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from gowork.cli.output import console, harmless
from gowork.cli.suggestions import meant
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

#: How long nothing is said, in seconds: most tasks have ended by then.
QUIET_S = 1.0
#: The longest time between two looks at why a task waits, in seconds. Each is twice as long as the one before.
_QUIET_S_MAX = 60.0
#: What is waited for at the end, in seconds, when the leader is just being asked.
_LAST_WORDS_S = 1.0


def wait_telling(client: Client, ids: Sequence[str], timeout: float | None) -> list[TaskInfo]:
    """As Client.wait. What keeps a task from being started is said on standard error after QUIET_S, and again when it
    is another thing.

    Raises:
        As Client.wait.
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
    """Like wait_telling, and shows a line on a terminal that says what it waits for."""
    what = ids[0] if len(ids) == 1 else f"{len(ids):,} tasks"
    with console(stderr=True).status(f"waiting for {what}"):
        return wait_telling(client, ids, timeout)


def _why(client: Client, task_id: str) -> str:
    """Why a task has not been started; empty when it has, and when the leader can't tell."""
    try:
        explanation = client.explain(task_id)
        if explanation.status is not TaskStatus.PENDING or not explanation.reasons:
            return ""
        return f"{task_id} waits: {explanation.reasons[0].message}{_handler_meant(client, task_id, explanation)}"
    except CallError:
        # A leader that is too old to be asked, or that does not answer just now: the wait goes on, and says so when it
        # gives up.
        return ""


def _handler_meant(client: Client, task_id: str, explanation: Explanation) -> str:
    if explanation.reasons[0].code is not WaitCode.NO_HANDLER:
        return ""
    known = sorted({name for member in client.members() for name in member.handlers})
    return meant(client.get(task_id).handler, known) or (f"; there are {', '.join(known[:10])}" if known else "")


@contextmanager
def telling(client: Client, waits: Callable[[], str]) -> Iterator[None]:
    """Meanwhile, after QUIET_S, says once why a task has not been started.

    Args:
        client: to ask.
        waits: the id of the task that is to be asked about; empty while there is none.
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
