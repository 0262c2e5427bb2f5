"""A leader whose disk fills while it leads hands over, if another leader has room (on real file systems of a few MiB).

Nothing that was acknowledged is lost, and a leader that has no successor goes on to lead and refuses.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader
from sharing_leaders import Sharing, sharing

from gowork.leader._app import standby
from gowork.leader._replication import candidacy, relief, replica, upkeep
from gowork.leader._replication.announcement import decode
from gowork.leader.store import _sqlite_reserve
from gowork.leader.store.sqlite import SqliteStore

#: Room for the reserve and some tasks. The reserve is larger than SQLite's log becomes.
DISK_BYTES = 60 << 20
RESERVE_BYTES = 20 << 20
PAYLOAD = "x" * 250_000


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_reserve, "RESERVE_BYTES", RESERVE_BYTES)
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.1)
    monkeypatch.setattr(relief, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(standby, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(replica, "BLOCKED_RETRY_SECONDS", 0.05)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts file systems of a few MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts file systems")
    mounted: list[Path] = []

    def mount(name: str) -> Path:
        place = tmp_path / f"disk-{name}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "gowork-test", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this system mounts no tmpfs here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        # Lazily: after a failure the store may still have it open.
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


async def start_on(crew: Sharing, name: str, folder: Path, says: str) -> ServedLeader:
    served = await crew.start(name, lambda path: SqliteStore(folder / path.name))
    await crew.says(name, 200, says)
    return served


async def submitted_until(crew: Sharing, leader: ServedLeader, is_over: Callable[[], bool]) -> list[str]:
    """Submits large tasks, one after the other. Returns those that were acknowledged."""
    acknowledged: list[str] = []
    number = 0
    while not is_over():
        number += 1
        try:
            await leader.submit(f"task-{number}", payload=PAYLOAD)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                raise
            await asyncio.sleep(0.02)
        else:
            acknowledged.append(f"task-{number}")
    return acknowledged


def leading(crew: Sharing) -> str:
    leader, _ = crew.place.leader()
    return "" if leader is None else decode(leader.announcement).name


async def test_a_leader_whose_disk_fills_hands_over_to_one_that_has_room(
    crew: Sharing, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    small = disk("a")
    served = await start_on(crew, "a", small, "ready")
    other = await start_on(crew, "b", tmp_path, "follows")
    await crew.registered("a", "b")
    acknowledged = await submitted_until(crew, served, lambda: leading(crew) == "b")
    assert len(acknowledged) > 5
    await crew.says("b", 200, "ready")
    await crew.submitted("b", "after", payload=PAYLOAD)
    # The reserve was used for what the log had. By now it lags behind, and says so.
    text, number = "", 0
    while "lags behind" not in text:
        number += 1
        await crew.submitted("b", f"more-{number}", payload=PAYLOAD)
        _, text = await crew.ready("a")
    assert crew.asides("a") == []
    kept = {task.id for task in await other.list(page_size=10_000)}
    assert kept >= {*acknowledged, "after"}


async def test_a_leader_whose_disk_fills_goes_on_to_lead_and_refuses_while_no_other_has_room(
    crew: Sharing, disk: Callable[[str], Path]
) -> None:
    small = disk("a")
    served = await start_on(crew, "a", small, "ready")
    await start_on(crew, "b", disk("b"), "follows")
    await crew.registered("a", "b")
    refused = asyncio.Event()

    async def wait_for_refusals() -> None:
        await crew.says("a", 503, "the store is full")
        # For as long as a hand-over would take.
        for _ in range(20):
            await crew.says("a", 503, "the store is full")
        refused.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(wait_for_refusals())
        acknowledged = await submitted_until(crew, served, refused.is_set)
    leader, _ = crew.place.leader()
    assert leader is not None
    assert (leading(crew), leader.term) == ("a", 1)
    assert len(acknowledged) > 5
    # There is room again.
    grow = ["mount", "-o", f"remount,size={4 * DISK_BYTES}", str(small)]
    await asyncio.to_thread(subprocess.run, grow, check=True)
    await crew.says("a", 200, "ready")
    await crew.submitted("a", "after")
    assert {task.id for task in await served.list(page_size=10_000)} >= {*acknowledged, "after"}
