"""How a runner's process ends, or does not even start."""

from __future__ import annotations

import asyncio
import errno
import os
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.worker._core.selection import Selection
from gowork.worker._desk.instructions import StartRunner
from gowork.worker._desk.runner import RunnerId
from gowork.worker._fleet.process import ProcessRunner, describe_exit
from gowork.worker._runner import messages, pulse


def test_exit_of_a_runner_that_lost_descriptors_is_put_in_words() -> None:
    assert "descriptors" in describe_exit(messages.DESCRIPTORS_LOST_EXIT)


def test_descriptors_that_are_closed_or_replaced_are_found() -> None:
    from gowork.worker._runner.descriptors import OwnDescriptors, open_descriptors

    before = open_descriptors()
    reader, writer = os.pipe()
    assert open_descriptors() - before == {reader, writer}
    own = OwnDescriptors([reader, writer])
    assert own.intact()
    other = os.open(os.devnull, os.O_RDONLY)
    os.dup2(other, reader)
    os.close(other)
    assert not own.intact()
    own = OwnDescriptors([reader, writer])
    os.close(writer)
    assert not own.intact()
    os.close(reader)


async def test_runner_that_could_not_be_started_leaves_no_descriptor_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from gowork.worker._runner.descriptors import open_descriptors

    async def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    setup = messages.Setup("w", 2, 0, Selection(), ())
    start = StartRunner(RunnerId(1), "r", 2, 0)
    runner = ProcessRunner(start, setup, lambda event: None, lambda executed: None, warden=None)
    before = open_descriptors()
    with pytest.raises(OSError, match="open files"):
        await runner.run()
    runner.close()
    assert open_descriptors() == before


async def test_runner_looks_at_its_descriptors_as_often_as_it_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(pulse, "leave", lambda: left.append(1))
    own = SimpleNamespace(intact=lambda: True)
    beating = pulse.Pulse(own)  # type: ignore[arg-type]
    assert left == []
    own.intact = lambda: False
    beating._tick()
    assert left == [1]
