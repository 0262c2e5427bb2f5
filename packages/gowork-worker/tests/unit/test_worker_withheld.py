"""What a runner says of the slots that it withholds: both runners say which Slots they had heard by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gowork.worker._core.selection import Selection
from gowork.worker._desk.events import RunnerSaid
from gowork.worker._desk.instructions import StartRunner
from gowork.worker._desk.runner import RunnerId
from gowork.worker._fleet.local import LocalRunner
from gowork.worker._runner import main, messages, pipe
from gowork.worker._runner.upkeep import Upkeep


class Executor:
    """Of two slots. It withholds at once, except that the first change takes effect with the second."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._changes = 0

    def set_slots(self, slots: int) -> None:
        self._changes += 1
        if self._changes > 1:
            self._tell(2 - slots)


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self._reader = pipe.FrameReader(lambda kind, body: self.said.append(messages.decode_from_runner(body)))

    def write(self, data: bytes) -> None:
        self._reader.feed(data)


SLOTS = (messages.Slots(1), messages.Slots(0), messages.Slots(2))
SAID = [messages.Withheld(2, heard=2), messages.Withheld(0, heard=3)]


async def test_a_runner_process_says_how_many_messages_of_its_slots_it_has_heard() -> None:
    runner, transport = main._Runner(None), Transport()  # type: ignore[arg-type]
    runner.connection_made(transport)  # type: ignore[arg-type]
    runner.begin(Executor(runner.send_withheld), Upkeep([], dict, print))  # type: ignore[arg-type]
    for message in SLOTS:
        runner.data_received(pipe.frame(pipe.CONTROL, messages.encode(message)))
    assert transport.said == SAID


def test_a_runner_within_the_worker_says_how_many_messages_of_its_slots_it_has_heard() -> None:
    said: list[Any] = []
    start = StartRunner(RunnerId(1), "here", 2, 0, False, None)
    runner = LocalRunner(start, said.append, lambda executed: None, worker="w", selection=Selection(), functions=())
    runner._executor = Executor(runner._say_withheld)  # type: ignore[assignment]
    for message in SLOTS:
        runner.send(message)
    assert said == [RunnerSaid(RunnerId(1), message) for message in SAID]
