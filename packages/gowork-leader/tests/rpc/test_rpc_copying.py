"""Which copies of another leader's store are used, how long one is gone on with, and what is left of it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from memory_log import MemoryLog, MemoryPlace

from gowork.leader._core.model import Position
from gowork.leader._rpc.copying import IN_VAIN_MAX, _Begun, _NoCopy, _Taking, take_copy
from gowork.leader.log import Generation
from gowork.leader.log.entries import NO_HASH

DATA = b"copy"


@pytest.fixture
def log() -> MemoryLog:
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    return MemoryLog(place)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A closed store, whose copies stand where the log begins."""
    position = Position("g", 0, NO_HASH)
    return Mock(scratch=tmp_path / "scratch", copy_format=3, check_copy=AsyncMock(return_value=(3, position)))


async def test_a_copy_that_lacks_the_entry_that_is_needed_is_not_used_though_it_was_sent(
    log: MemoryLog, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def receive(taking: _Taking, begun: _Begun, least: int) -> None:
        store.scratch.write_bytes(DATA)
        begun.size = begun.written = len(DATA)
        begun.sha256 = hashlib.sha256(DATA).digest()

    monkeypatch.setattr(_Taking, "_receive", receive)
    await _Taking(log, store, None, 0, store.scratch)._fetch_from("other:1", 0)
    with pytest.raises(_NoCopy, match="is at index 0, and lacks entries that are needed"):
        await _Taking(log, store, None, 5, store.scratch)._fetch_from("other:1", 5)


async def test_a_copy_of_which_nothing_comes_any_more_is_given_up(
    log: MemoryLog, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    comes = [len(DATA), len(DATA)]

    async def receive(taking: _Taking, begun: _Begun, least: int) -> None:
        begun.id = "1"
        begun.written += comes.pop() if comes else 0
        raise TimeoutError

    monkeypatch.setattr(_Taking, "_receive", receive)
    taking = _Taking(log, store, None, 0, store.scratch)
    # As long as something comes, it is gone on with. After that it is for a while.
    for _ in range(2 + IN_VAIN_MAX - 1):
        with pytest.raises(TimeoutError):
            await taking._fetch_from("other:1", 0)
        assert taking.begun is not None
        assert taking.begun.written > 0
    with pytest.raises(TimeoutError):
        await taking._fetch_from("other:1", 0)
    assert taking.begun is None


async def test_nothing_is_left_of_a_copy_that_is_cut_short(
    log: MemoryLog, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving = asyncio.Event()

    async def fetch(taking: _Taking) -> None:
        store.scratch.write_bytes(DATA)
        receiving.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(_Taking, "fetch", fetch)
    copying = asyncio.ensure_future(take_copy(log, store))
    await receiving.wait()
    # The process is told to stop.
    copying.cancel()
    await asyncio.wait({copying})
    assert copying.cancelled()
    assert not store.scratch.exists()
