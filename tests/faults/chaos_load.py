"""Clients that submit without pause, and a ledger of what they asked for and were told."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chaos_handlers import Work

from gowork.client import (
    CallError,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    LeaderUnreachable,
    NewTask,
    Priority,
    RetryPolicy,
)

#: Errors that say that no leader answered: the caller tries again, under the same ids.
_NO_ANSWER = (DeadlineExceeded, LeaderUnreachable)
#: The deadline of a call, in seconds; after it the client makes the call anew.
_CALL_SECONDS = 5.0
#: Batches wait while this many tasks are unfinished, so that they end soon after the faults do.
UNFINISHED_MAX = 1_000
_RETRY = RetryPolicy(max_attempts=4, initial_delay=0.1, factor=1.5)
_HOPELESS = RetryPolicy(max_attempts=2, initial_delay=0.1)


@dataclass
class Ledger:
    """What clients asked for and were told. All their threads write it."""

    #: The ids whose submit was acknowledged, as a set in their order.
    acknowledged: dict[str, None] = field(default_factory=dict)
    #: The ids for which a cancel was sent, as a set in their order.
    cancels: dict[str, None] = field(default_factory=dict)
    #: {id: wall-clock ms at which its cancel was acknowledged}
    cancelled: dict[str, int] = field(default_factory=dict)
    #: Errors of calls that no fault explains.
    errors: list[str] = field(default_factory=list)


class Load:
    """The clients, each in a thread of its own."""

    def __init__(self, open_client: Callable[[float], Client], seed: int) -> None:
        """`open_client` is given the deadline of its calls, in seconds."""
        self.ledger = Ledger()
        #: The number of unfinished tasks at the last count, less the number acknowledged by then.
        self._unfinished = 0
        self._open_client = open_client
        self._stopped = threading.Event()
        doings = (self._batches, self._batches, self._singles, self._cancels)
        self._threads = [
            threading.Thread(target=self._run, args=(doing, f"c{number}", random.Random(f"{seed}/{number}")))
            for number, doing in enumerate(doings)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def count(self, unfinished: int) -> None:
        """Takes the number of tasks that are unfinished now."""
        self._unfinished = unfinished - len(self.ledger.acknowledged)

    def stop(self) -> None:
        """Ends the submitting. Calls that were begun are finished, so a leader must be there."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, doing: Callable[[Client, str, random.Random], None], name: str, chance: random.Random) -> None:
        with self._open_client(_CALL_SECONDS) as client:
            number = 0
            while not self._stopped.is_set():
                number += 1
                try:
                    doing(client, f"{name}-{number}", chance)
                except CallError as error:
                    self.ledger.errors.append(f"{name}: {type(error).__name__}: {error}")

    def _batches(self, client: Client, name: str, chance: random.Random) -> None:
        while self._unfinished + len(self.ledger.acknowledged) > UNFINISHED_MAX:
            if self._stopped.wait(0.05):
                return
        tasks = [random_task(f"{name}-{place}", chance) for place in range(chance.randrange(5, 150))]
        for _ in range(2 if chance.random() < 0.2 else 1):
            self._until_answered(lambda: self._batch(client, tasks))

    def _batch(self, client: Client, tasks: Sequence[NewTask]) -> None:
        for handle in client.schedule_many(tasks):
            self._acknowledge(handle.id)

    def _singles(self, client: Client, name: str, chance: random.Random) -> None:
        task = random_task(name, chance)
        for _ in range(2 if chance.random() < 0.1 else 1):
            self._until_answered(lambda: self._acknowledge(client.schedule(task).id))
        self._stopped.wait(chance.uniform(0, 0.02))

    def _cancels(self, client: Client, name: str, chance: random.Random) -> None:
        handler = chance.choice(("quick", "threaded", "isolated"))
        task = NewTask(Work(ms=chance.randrange(50, 3000)), id=name, handler=handler)
        self._until_answered(lambda: self._acknowledge(client.schedule(task).id))
        self._stopped.wait(chance.uniform(0, 0.5))
        self.ledger.cancels[name] = None
        self._until_answered(lambda: self._cancel(client, name))

    def _cancel(self, client: Client, id: str) -> None:
        try:
            client.cancel(id)
        except FailedPrecondition:
            # It had finished.
            return
        self.ledger.cancelled[id] = time.time_ns() // 1_000_000

    def _acknowledge(self, id: str) -> None:
        self.ledger.acknowledged[id] = None

    def _until_answered(self, call: Callable[[], object]) -> None:
        while True:
            try:
                call()
            except _NO_ANSWER:
                continue
            return


def random_task(id: str, chance: random.Random) -> NewTask:
    """A random task; most are short."""
    priority = chance.choice((None, Priority.LOW, Priority.MEDIUM, Priority.HIGH))
    # An absolute time, so that the same task can be submitted again.
    run_at = time.time() + chance.uniform(0.1, 3.0) if chance.random() < 0.1 else None
    ms = chance.choices((0, 5, 20, 100, chance.randrange(2000)), (50, 20, 15, 10, 5))[0]
    kind = chance.choices(
        ("quick", "threaded", "flaky", "parent", "snoozer", "hopeless", "isolated", "overdue"),
        (40, 40, 6, 6, 3, 2, 0.5, 0.3),
    )[0]
    retry, work = None, Work(ms=ms)
    if kind in ("flaky", "parent"):
        retry, work = _RETRY, Work(ms=min(ms, 100), failures=chance.randrange(3), children=chance.randrange(1, 4))
    elif kind == "hopeless":
        retry = _HOPELESS
    return NewTask(work, id=id, handler=kind, priority=priority, run_at=run_at, retry=retry)
