"""Clients that live on while leaders fail, and everything that they were told.

Clients of applications know all leaders. Deaf ones call one leader each, whether or not it leads, and follow no hint.
So they would hear what a deposed leader answers. Their errors and the times of their calls count for nothing.

Each task has a life of its own: it is submitted, perhaps twice at once, read by others meanwhile, perhaps cancelled,
and waited for. Lives begin at a steady pace, whether or not the calls of earlier ones were answered.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from chaos_load import Ledger, random_task
from ha_linear import Answer, Call, Did, Seen

from gowork.client import (
    AsyncClient,
    CallError,
    FailedPrecondition,
    NewTask,
    NotFound,
    TaskInfo,
    TaskNotFinished,
    TaskStatus,
)

T = TypeVar("T")

#: How many lives begin in a second.
RATE = 30.0
#: How many lives there are at once, at most. None begins while there are so many.
LIVES_MAX = 2_000
#: The deadline of a call, in seconds, which is the client's own default.
CALL_SECONDS = 30.0
#: The handlers whose tasks are cancelled now and then. The others end in ways that a cancel would hide.
_CANCELLED = frozenset({"quick", "threaded", "isolated"})
#: How long a task is waited for, in seconds.
_WAIT_SECONDS = 120.0
#: The deadline of a deaf client's call, in seconds, which is longer than leaders are stopped.
_DEAF_SECONDS = 15.0
#: Which share of the tasks deaf clients submit.
_DEAF_SHARE = 0.25
#: How much of an error's text is kept, in characters.
_TEXT_MAX = 200


@dataclass
class Told:
    """What the clients were told."""

    #: {task: calls about it}
    calls: dict[str, list[Call]] = field(default_factory=dict)
    #: {what was called, and the error that the application saw: how often}
    errors: Counter[str] = field(default_factory=Counter)
    #: As the checker of the handlers' record wants it.
    ledger: Ledger = field(default_factory=Ledger)
    submits: list[Submit] = field(default_factory=list)
    #: How many lives did not begin because there were too many.
    held_back: int = 0


@dataclass(frozen=True)
class _Client:
    """A client under the name that findings have."""

    name: str
    calls: AsyncClient
    is_deaf: bool = False


@dataclass
class Submit:
    """The first submit of a task, by a client that knows all leaders.

    It has the monotonic seconds when it began, when it was acknowledged, and when the task's completion was known.
    None: that has not happened.
    """

    began: float
    acknowledged: float | None = None
    completed: float | None = None
    #: Which worker completed it.
    worker: str = ""


def deaf_client(address: str) -> AsyncClient:
    """Returns a client that calls this address alone."""
    client = AsyncClient(address, timeout=_DEAF_SECONDS)
    client._settings.rotation.hear = lambda *metadata: None  # type: ignore[method-assign]
    return client


class Load:
    """The clients. Run it once."""

    def __init__(self, clients: Sequence[AsyncClient], deaf: Sequence[AsyncClient], seed: int) -> None:
        """`clients` know all leaders, and `deaf` ones were made by deaf_client."""
        self._clients = [_Client(f"c{number}", client) for number, client in enumerate(clients)]
        self._deaf = [_Client(f"d{number}", client, is_deaf=True) for number, client in enumerate(deaf)]
        self._seed = seed
        self.told = Told()
        self._stopped = asyncio.Event()
        self._news = asyncio.Condition()

    def stop(self) -> None:
        """Lets no more lives begin."""
        self._stopped.set()

    async def run(self) -> None:
        """Begins lives until it is stopped, and returns when all have ended."""
        lives: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            began, number = time.monotonic(), 0
            while not self._stopped.is_set():
                number += 1
                if len(lives) < LIVES_MAX:
                    life = group.create_task(self._live(number))
                    lives.add(life)
                    life.add_done_callback(lives.discard)
                else:
                    self.told.held_back += 1
                # The next one is due by the clock, so that a slow machine begins as many.
                pause = began + number / RATE - time.monotonic()
                try:
                    async with asyncio.timeout(max(pause, 0.0)):
                        await self._stopped.wait()
                except TimeoutError:
                    pass

    async def passed(self, at: float) -> None:
        """Returns when a task whose submit began after this moment, in monotonic seconds, has completed."""

        def is_passed() -> bool:
            later = itertools.takewhile(lambda submit: submit.began >= at, reversed(self.told.submits))
            return any(submit.completed for submit in later)

        async with self._news:
            await self._news.wait_for(is_passed)

    async def _live(self, number: int) -> None:
        chance = random.Random(f"{self._seed}/{number}")
        task = random_task(f"t{number}", chance)
        id = task.id
        assert id is not None
        self.told.calls[id] = []
        submit = Submit(time.monotonic())
        is_deaf = chance.random() < _DEAF_SHARE
        mine, *others = chance.sample(self._deaf if is_deaf else self._clients, 3)
        if not is_deaf:
            self.told.submits.append(submit)
        async with asyncio.TaskGroup() as group:
            for other in chance.sample([*others, *self._deaf], chance.choice((0, 0, 1, 2))):
                delays = [chance.expovariate(4) for _ in range(chance.randrange(1, 4))]
                group.create_task(self._look(id, other, delays))
            if chance.random() < 0.1:
                group.create_task(self._submit(task, others[0]))
            if not await self._submit(task, mine):
                return
            submit.acknowledged = time.monotonic()
            if task.handler in _CANCELLED and chance.random() < 0.2:
                group.create_task(self._cancel(id, others[1], chance.expovariate(3)))
            ended = await self._wait(id, mine)
            if ended is not None and ended.status is TaskStatus.COMPLETED:
                submit.completed, submit.worker = time.monotonic(), ended.worker
                async with self._news:
                    self._news.notify_all()
            for other in self._deaf if is_deaf else ():
                # None may answer now that the task has not ended.
                group.create_task(self._look(id, other, [0.0]))

    async def _submit(self, task: NewTask, client: _Client) -> bool:
        """Submits a task. Returns whether that was acknowledged."""
        assert task.id is not None
        call, _ = await self._call(Did.SUBMIT, task.id, client, lambda client: client.schedule(task))
        if call.answer is Answer.DONE:
            self.told.ledger.acknowledged[task.id] = None
        return call.answer is Answer.DONE

    async def _look(self, id: str, client: _Client, delays: Sequence[float]) -> None:
        for delay in delays:
            # Somebody looks at a task at any time, also before it is there.
            await asyncio.sleep(delay)
            await self._call(Did.READ, id, client, lambda client: client.get(id))

    async def _wait(self, id: str, client: _Client) -> TaskInfo | None:
        """Waits for a task's end. Returns None if the wait failed."""
        _, ended = await self._call(Did.READ, id, client, lambda client: _finished(client, id), name="wait")
        return ended

    async def _cancel(self, id: str, client: _Client, delay: float) -> None:
        await asyncio.sleep(delay)
        self.told.ledger.cancels[id] = None
        call, _ = await self._call(Did.CANCEL, id, client, lambda client: client.cancel(id))
        if call.answer is Answer.DONE:
            self.told.ledger.cancelled[id] = time.time_ns() // 1_000_000

    async def _call(
        self, did: Did, id: str, client: _Client, make: Callable[[AsyncClient], Awaitable[T]], name: str = ""
    ) -> tuple[Call, T | None]:
        """Makes a call and notes it. Returns the note and what was returned, if anything was."""
        began, returned, seen = time.monotonic(), None, None
        try:
            returned = await make(client.calls)
            answer = Answer.DONE
            if isinstance(returned, TaskInfo):
                seen = Seen.of(returned)
        except NotFound:
            answer = Answer.ABSENT
        except (CallError, TaskNotFinished) as error:
            has_ended = did is Did.CANCEL and isinstance(error, FailedPrecondition)
            answer = Answer.ENDED if has_ended else Answer.UNKNOWN
            if answer is Answer.UNKNOWN and not client.is_deaf:
                text = f"{name or did.name.lower()}: {type(error).__name__}: {str(error)[:_TEXT_MAX]}"
                self.told.errors[text] += 1
        ended = math.inf if answer is Answer.UNKNOWN else time.monotonic()
        # How long a wait takes depends on its task.
        timed = not client.is_deaf and name != "wait"
        call = Call(did, answer, began, ended, seen, client.name, timed)
        if did is not Did.READ or answer is not Answer.UNKNOWN:
            self.told.calls[id].append(call)
        return call, returned


async def _finished(client: AsyncClient, id: str) -> TaskInfo:
    (task,) = await client.wait([id], timeout=_WAIT_SECONDS)
    return task
