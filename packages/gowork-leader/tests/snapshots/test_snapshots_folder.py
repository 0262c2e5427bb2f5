"""A folder that leaders share keeps whole snapshots, and whatever else happens to it harms nothing."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gowork.leader._core.model import Position
from gowork.leader._snapshots import folder, stalls
from gowork.leader._snapshots.folder import LEFT_SECONDS, MARK, Folder
from gowork.leader._snapshots.names import Snapshot, named
from gowork.leader._snapshots.places import CHUNK_BYTES, PlaceError, place_at

DATA = os.urandom(3_000_000)


def snapshot(index: int = 7, generation: str = "ab12", data: bytes = DATA) -> Snapshot:
    position = Position(generation, index, bytes(31) + b"\x05")
    return Snapshot(position, 3, 1_764_000_000_000, len(data), hashlib.sha256(data).hexdigest())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "store"
    source.write_bytes(DATA)
    return source


def test_a_name_tells_all_and_fits_a_file_system() -> None:
    found = snapshot(generation="f" * 32)
    assert named(found.name) == found
    assert len(found.name + ".part") <= 255
    assert sorted([snapshot(10).name, snapshot(9).name]) == [snapshot(9).name, snapshot(10).name]


@pytest.mark.parametrize("name", ["", "notes.txt", MARK, snapshot().name + ".part", "x" + snapshot().name])
def test_what_has_another_name_is_no_snapshot(name: str) -> None:
    assert named(name) is None


async def test_a_snapshot_that_was_written_is_there_and_can_be_read(path: Path, source: Path, tmp_path: Path) -> None:
    place = place_at(str(path))
    assert await place.snapshots() == []
    await place.write(snapshot(), source)
    await place.write(snapshot(8), source)
    assert sorted(await place.snapshots(), key=lambda each: each.position.index) == [snapshot(), snapshot(8)]
    target = tmp_path / "target"
    target.write_bytes(b"older")
    await place.read(snapshot(8), target)
    assert target.read_bytes() == DATA
    for _ in range(2):
        await place.remove(snapshot())
    assert await place.snapshots() == [snapshot(8)]
    # Tasks' payloads are in it.
    assert (path / snapshot(8).name).stat().st_mode & 0o777 == 0o600
    await place.close()


async def test_a_folder_gets_an_id_once_and_only_when_it_is_to(path: Path) -> None:
    place = Folder(path)
    assert await place.mark(make=False) is None
    assert list(path.iterdir()) == []
    mark = await place.mark(make=True)
    assert mark is not None
    assert await Folder(path).mark(make=False) == await place.mark(make=True) == mark
    assert [each.name for each in path.iterdir()] == [MARK]
    (path / MARK).write_text("notes of somebody\n")
    with pytest.raises(PlaceError, match=r"does not have the id of a folder for snapshots"):
        await place.mark(make=True)


@pytest.mark.parametrize("what", ["missing", "file"])
async def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, source: Path, what: str) -> None:
    path = tmp_path / "away"
    if what == "file":
        path.write_text("a file")
    place = Folder(path)
    calls: list[Callable[[], Any]] = [
        lambda: place.mark(make=True),
        place.snapshots,
        lambda: place.write(snapshot(), source),
    ]
    for call in calls:
        with pytest.raises(PlaceError, match=r"is no folder here; make it, or mount it") as caught:
            await call()
        assert str(path) in str(caught.value)
    assert path.exists() == (what == "file")


async def test_what_belongs_to_others_is_left_alone_and_what_is_not_whole_is_not_listed(
    path: Path, source: Path
) -> None:
    place = Folder(path)
    await place.write(snapshot(), source)
    await place.write(snapshot(generation="cd34"), source)
    (path / snapshot(8).name).write_bytes(DATA[:-1])
    (path / snapshot(9).name).mkdir()
    (path / snapshot(10).name).symlink_to(source)
    (path / "notes.txt").write_text("of somebody")
    before = {each.name for each in path.iterdir()}
    assert set(await place.snapshots()) == {snapshot(), snapshot(generation="cd34")}
    assert {each.name for each in path.iterdir()} == before


async def test_a_snapshot_that_is_damaged_is_not_taken(path: Path, source: Path, tmp_path: Path) -> None:
    place = Folder(path)
    await place.write(snapshot(), source)
    there = path / snapshot().name
    there.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    assert await place.snapshots() == [snapshot()]
    with pytest.raises(PlaceError, match=r"the snapshot at index 7 of generation ab12 is damaged"):
        await place.read(snapshot(), tmp_path / "target")


async def test_a_snapshot_appears_only_when_it_was_read_back_and_is_the_same(
    path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Folder(path)
    forced: list[list[str]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        forced.append([each.name for each in path.iterdir()])
        if not forced[1:]:
            # The disk loses a bit.
            (part,) = path.iterdir()
            with part.open("r+b") as file:
                file.write(bytes([DATA[0] ^ 1]))
        fsync(descriptor)

    monkeypatch.setattr(folder.os, "fsync", noting)
    with pytest.raises(PlaceError, match=r"gives back other bytes than were written"):
        await place.write(snapshot(), source)
    assert list(path.iterdir()) == []
    await place.write(snapshot(), source)
    # Its bytes were forced under another name, and then its name.
    assert forced == [[snapshot().name + ".part"], [snapshot().name + ".part"], [snapshot().name]]


async def test_what_dead_processes_left_goes_and_what_others_write_now_stays(path: Path, source: Path) -> None:
    left = path / f"{snapshot(3).name}.part"
    written = path / f"{snapshot(4).name}.part"
    foreign = path / f"{snapshot(5, 'cd34').name}.part"
    for part in (left, written, foreign):
        part.write_bytes(b"a part")
    for part in (left, foreign):
        look = part.stat()
        os.utime(part, (look.st_atime, look.st_mtime - LEFT_SECONDS - 60))
    await Folder(path).write(snapshot(), source)
    assert {each.name for each in path.iterdir()} == {snapshot().name, written.name, foreign.name}


async def test_a_full_folder_is_not_written_to(path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder.os, "statvfs", lambda path: SimpleNamespace(f_bavail=2, f_frsize=1_000_000))
    with pytest.raises(PlaceError, match=r"is full; it needs room for three snapshots"):
        await Folder(path).write(snapshot(), source)
    assert list(path.iterdir()) == []


async def test_a_folder_that_fills_up_meanwhile_keeps_no_part(
    path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "FORCE_BYTES", 1)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fdatasync", full)
    with pytest.raises(PlaceError, match=r"is full"):
        await Folder(path).write(snapshot(), source)
    assert list(path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "words"), [(30, "is read-only"), (13, "refuses this leader's user"), (5, "can't be used: Input/output")]
)
async def test_other_errors_of_the_folder_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.os, "scandir", refuse)
    with pytest.raises(PlaceError, match=words):
        await Folder(path).snapshots()


async def test_a_folder_that_hangs_is_given_up_and_not_asked_again_until_it_answers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stalls, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(stalls, "_LOOK_SECONDS", 0.02)
    goes_on = threading.Event()
    scandir, calls = os.scandir, []

    def hang(path: Path) -> Any:
        calls.append(path)
        goes_on.wait()
        return scandir(path)

    monkeypatch.setattr(folder.os, "scandir", hang)
    place = Folder(path)
    for _ in range(2):
        async with asyncio.timeout(30):
            with pytest.raises(PlaceError, match=r"shared does not answer"):
                await place.snapshots()
    assert len(calls) == 1
    goes_on.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await place.snapshots() == []
            except PlaceError:
                continue
            break


async def test_a_write_that_is_given_up_leaves_nothing(
    path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    begun, cancelled, ended = asyncio.Event(), threading.Event(), asyncio.Event()
    unlink = Path.unlink

    def wait(descriptor: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        cancelled.wait()

    def noting(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if begun.is_set():
            loop.call_soon_threadsafe(ended.set)

    monkeypatch.setattr(folder, "FORCE_BYTES", 1)
    monkeypatch.setattr(folder.os, "fdatasync", wait)
    monkeypatch.setattr(Path, "unlink", noting)
    writing = asyncio.ensure_future(Folder(path).write(snapshot(), source))
    await begun.wait()
    writing.cancel()
    await asyncio.wait({writing})
    cancelled.set()
    await ended.wait()
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("where", ["s3://bucket/folder", "nfs://host/share"])
def test_a_url_that_names_no_place_is_refused(where: str) -> None:
    with pytest.raises(PlaceError, match="is no place for snapshots"):
        place_at(where)


async def test_a_link_is_no_snapshot(path: Path, source: Path) -> None:
    (path / snapshot().name).symlink_to(source)
    assert await Folder(path).snapshots() == []


def test_a_snapshot_that_is_removed_while_the_folder_is_read_is_not_there(path: Path, source: Path) -> None:
    class Meanwhile(stalls.Progress):
        def made(self) -> None:
            (path / snapshot().name).unlink()

    (path / snapshot().name).write_bytes(DATA)
    assert Folder(path)._snapshots(Meanwhile()) == []


def test_each_part_of_a_copy_is_told_so_that_a_long_one_does_not_look_as_if_it_hung(
    path: Path, source: Path, tmp_path: Path
) -> None:
    class Counted(stalls.Progress):
        times = 0

        def made(self) -> None:
            self.times += 1

    chunks = -(-len(DATA) // CHUNK_BYTES)
    progress = Counted()
    Folder(path)._write(snapshot(), source, progress)
    # It is written, and read back.
    assert progress.times >= 2 * chunks
    progress = Counted()
    Folder(path)._read(snapshot(), tmp_path / "target", progress)
    assert progress.times >= chunks
