"""When snapshots are taken, by whom, which of them count, and what the log keeps because of them."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import NoReturn

import pytest
from replication_leader import VALUE_BYTES, WALL_MS, LoneLeader, announcement

from gowork.leader._core.model import Now
from gowork.leader._replication import pruning, snapshots, weight
from gowork.leader._replication.chain import check_follows
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.registers import Registration
from gowork.leader._replication.snapshots import (
    AGAIN_SECONDS,
    PLACE,
    RANK_SECONDS,
    SNAPSHOT_SECONDS,
    TIMES_APART,
    Snapshots,
    fetch_newest,
)
from gowork.leader._snapshots.folder import MARK, Folder
from gowork.leader._snapshots.names import Snapshot, named
from gowork.leader._snapshots.places import PlaceError
from gowork.leader.log import Generation, LogRefusedError, Span
from gowork.leader.log.entries import ChainError
from gowork.leader.store import Position, StoreError, StoreFullError


@dataclasses.dataclass
class Own:
    """What a process does in the log."""

    leads: bool
    leader: LoneLeader
    follows: str = ""

    @property
    def applied(self) -> int:
        return self.leader.span.last


class House:
    """A leader, a folder, and a clock that is set by hand."""

    def __init__(self, tmp_path: Path, leader: LoneLeader) -> None:
        self.leader = leader
        self.folder = tmp_path / "shared"
        self.folder.mkdir()
        self.scratch = tmp_path / "scratch"
        self.mono = 0.0
        self.said: list[str | None] = []
        #: The ids of other stores that are seen again and again.
        self.others: tuple[str, ...] = ()
        self.watch = LogWatch(leader.log, leader.span, lambda: self.mono)

    def now(self) -> Now:
        return Now(WALL_MS + int(self.mono * 1000), self.mono)

    def make(self, store_id: str = "", *, leads: bool = True, folder: Path | None = None) -> Snapshots:
        """The snapshots of one leader of those that share the store of this test."""
        return Snapshots(
            Folder(folder or self.folder),
            self.leader.store,
            self.leader.log,
            store_id or self.leader.store_id,
            self.leader.weight,
            self.watch,
            Own(leads, self.leader, "" if leads else self.leader.store_id),
            self.now,
            self.said.append,
        )

    async def look(self, snapshots: Snapshots) -> list[int]:
        """Has one leader look, and returns the indexes of the snapshots that are there then."""
        self.watch.span = self.leader.span
        self.register(*self.others)
        await snapshots.look(self.scratch)
        assert not self.scratch.exists()
        return self.indexes

    @property
    def there(self) -> list[Snapshot]:
        found = (named(path.name) for path in self.folder.iterdir())
        return sorted((each for each in found if each is not None), key=lambda each: each.position.index)

    @property
    def indexes(self) -> list[int]:
        return [each.position.index for each in self.there]

    def register(self, *store_ids: str) -> None:
        self.watch.registrations = {
            each: Registration(announcement(each), 1, 1, self.now().wall_ms, 1)
            for each in (self.leader.store_id, *store_ids)
        }


@pytest.fixture
async def house(tmp_path: Path) -> House:
    leader = LoneLeader()
    await leader.lead()
    await leader.write(9)
    return House(tmp_path, leader)


async def test_the_first_snapshot_is_taken_at_once_and_the_next_when_it_is_time(house: House) -> None:
    one = house.make()
    assert one.index == 0
    assert await house.look(one) == [10]
    assert one.index == 10
    (there,) = house.there
    assert there.position == (await house.leader.store.current()).position
    assert there.taken_ms == WALL_MS
    await house.leader.write(1)
    house.mono += SNAPSHOT_SECONDS - 1
    assert await house.look(one) == [10]
    assert one.age_seconds == SNAPSHOT_SECONDS - 1
    house.mono += 1
    assert await house.look(one) == [10, 11]
    assert one.index == 11
    house.mono += 10 * SNAPSHOT_SECONDS
    # Nothing was written since.
    assert await house.look(one) == [10, 11]
    assert one.age_seconds == 0
    assert house.said == []


async def test_who_starts_again_does_not_wait_anew_and_believes_no_clock_twice(house: House) -> None:
    await house.look(house.make())
    await house.leader.write(1)
    house.mono += 10 * SNAPSHOT_SECONDS
    one = house.make()
    assert await house.look(one) == [10, 11]
    await house.leader.write(1)
    # Another leader's clock is far behind, so its snapshot looks old.
    another = house.make()
    another._now = lambda: Now(5, house.mono)
    await house.look(another)
    house.mono += SNAPSHOT_SECONDS
    assert await house.look(another) == [11, 12]
    await house.leader.write(1)
    assert await house.look(one) == [11, 12]
    house.mono += SNAPSHOT_SECONDS
    assert await house.look(one) == [12, 13]


async def test_a_place_that_is_away_now_and_then_keeps_nobody_from_taking_snapshots(house: House) -> None:
    one = house.make()
    await house.look(one)
    await house.leader.write(1)
    for _ in range(3):
        house.mono += SNAPSHOT_SECONDS / 3
        house.folder.rename(house.scratch)
        with pytest.raises(PlaceError):
            await one.look(house.scratch)
        one._found(None)
        assert one.age_seconds == 0
        house.scratch.rename(house.folder)
        await house.look(one)
    assert house.indexes == [10, 11]


async def test_when_all_are_removed_one_leader_takes_the_next(house: House) -> None:
    house.others = ("!a",)
    leading, follower = house.make(), house.make("!a", leads=False)
    for each in (leading, follower, leading):
        await house.look(each)
    house.mono += SNAPSHOT_SECONDS
    (house.folder / house.there[0].name).unlink()
    assert await house.look(leading) == []
    assert await house.look(follower) == [10]


async def test_a_snapshot_is_taken_at_once_when_much_was_written(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "BLOCK_BYTES", 1)
    monkeypatch.setattr(snapshots, "SNAPSHOT_BYTES", 3 * VALUE_BYTES)
    one = house.make()
    await house.look(one)
    await house.leader.write(2)
    assert await house.look(one) == [10]
    await house.leader.write(1)
    assert await house.look(one) == [10, 13]


async def test_followers_are_first_and_the_next_one_steps_in_when_one_does_not(house: House) -> None:
    # One sorts before the id of the store that leads, and the other one after it.
    house.others = ("!a", "~b")
    leading, a, b = house.make(), house.make("!a", leads=False), house.make("~b", leads=False)
    # Who leads says which place it is, and leaves the first one to the others.
    assert await house.look(leading) == []
    assert await house.look(b) == []
    assert await house.look(a) == [10]
    for each in (leading, b):
        await house.look(each)
        assert each.index == 10
    for seconds, next_one, before in (
        (SNAPSHOT_SECONDS, a, (b, leading)),
        (SNAPSHOT_SECONDS + RANK_SECONDS, b, (leading,)),
        (SNAPSHOT_SECONDS + 2 * RANK_SECONDS, leading, ()),
    ):
        await house.leader.write(1)
        house.mono += seconds
        had = house.indexes
        for each in before:
            assert await house.look(each) == had
        assert (await house.look(next_one))[-1] == house.leader.span.last
        for each in (leading, a, b):
            await house.look(each)


async def test_who_was_not_seen_for_a_while_is_not_waited_for(house: House) -> None:
    house.others = ("!a",)
    leading = house.make()
    assert await house.look(leading) == []
    house.others = ()
    house.mono += RANK_SECONDS / 2
    # What was registered stays in the log.
    gone = Registration(announcement("!a"), 1, 1, house.now().wall_ms - snapshots.SEEN_MS - 1, 1)
    house.register()
    house.watch.registrations = {**house.watch.registrations, "!a": gone}
    await leading.look(house.scratch)
    assert house.indexes == [10]


async def test_two_are_kept_of_this_generation_and_nothing_else_is_touched(house: House) -> None:
    one = house.make()
    await house.look(one)
    other = Snapshot(Position("cd", 3, bytes(32)), 3, 5, 4, "0" * 64)
    (house.folder / other.name).write_bytes(b"1234")
    (house.folder / "notes.txt").write_text("of somebody")
    for _ in range(3):
        await house.leader.write(1)
        house.mono += SNAPSHOT_SECONDS
        await house.look(one)
    names = {path.name for path in house.folder.iterdir()}
    assert {other.name, "notes.txt", MARK} < names
    assert [each.position.index for each in house.there if each.position.generation != "cd"] == [12, 13]


async def test_a_folder_that_is_not_the_shared_one_is_neither_used_nor_believed(house: House, tmp_path: Path) -> None:
    await house.look(house.make())
    away = tmp_path / "not mounted"
    away.mkdir()
    noted = (await house.leader.log.notes(PLACE))[PLACE].decode()
    for leads in (True, False):
        with pytest.raises(PlaceError, match="is not the place that the leaders of this log share") as caught:
            await house.look(house.make(leads=leads, folder=away))
        assert noted in str(caught.value)
    assert list(away.iterdir()) == []
    # A person may say that it is.
    (away / MARK).write_text(noted)
    one = house.make(folder=away)
    await house.look(one)
    assert one.index == 10


async def test_who_leads_says_which_place_it_is(house: House) -> None:
    follower = house.make("a", leads=False)
    await house.look(follower)
    assert (follower.index, list(house.folder.iterdir())) == (0, [])
    await Folder(house.folder).mark(make=True)
    await house.look(follower)
    assert (follower.index, await house.leader.log.notes(PLACE)) == (0, {})
    await house.look(house.make())
    await house.look(follower)
    assert follower.index == 10


async def test_a_snapshot_that_fails_is_tried_again_later_and_the_last_one_counts_on(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = house.make()
    await house.look(one)
    await house.leader.write(1)
    house.mono += SNAPSHOT_SECONDS
    tries: list[int] = []

    async def full(place: Folder, snapshot: Snapshot, source: Path) -> None:
        tries.append(snapshot.position.index)
        raise PlaceError("the folder is full")

    async def no_room(store: object, path: Path) -> None:
        tries.append(0)
        raise StoreFullError("there is no room beside the store")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        assert await house.look(one) == [10]
        assert house.said == ["no new shared snapshot: the folder is full"]
        assert one.index == 10
        await house.look(one)
        assert tries == [11]
        patch.setattr(type(house.leader.store), "backup", no_room)
        house.mono += AGAIN_SECONDS
        await house.look(one)
        assert tries == [11, 0]
        assert house.said[1:] == ["no new shared snapshot: there is no room beside the store"]
    house.mono += AGAIN_SECONDS
    assert await house.look(one) == [10, 11]
    assert house.said[2:] == [None]


async def test_a_snapshot_that_took_long_is_followed_by_a_long_pause(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Folder.write

    async def slow(place: Folder, snapshot: Snapshot, source: Path) -> None:
        house.mono += SNAPSHOT_SECONDS
        await write(place, snapshot, source)

    one = house.make()
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "write", slow)
        assert await house.look(one) == [10]
    await house.leader.write(1)
    # Counted from when it was begun.
    house.mono += (TIMES_APART - 1) * SNAPSHOT_SECONDS - 1
    assert await house.look(one) == [10]
    house.mono += 1
    assert await house.look(one) == [10, 11]


async def test_a_disk_that_fails_while_a_snapshot_is_made_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(store: object, path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(type(house.leader.store), "backup", broken)
    assert await house.look(house.make()) == []
    assert house.said == ["no new shared snapshot: [Errno 5] Input/output error"]


async def test_a_snapshot_counts_on_when_the_log_has_dropped_what_comes_after_it(house: House) -> None:
    await house.look(house.make())
    await house.leader.write(3)
    await house.leader.leadership.prune(13)
    again = house.make()
    again._again_mono = float("inf")
    assert await house.look(again) == [10]
    assert again.index == 10
    assert house.said[-1] is not None
    assert "the log has dropped what no shared snapshot has" in house.said[-1]


async def test_a_place_that_is_lost_has_no_snapshot_and_what_fails_is_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(house.leader.store), "scratch", house.scratch)
    one = house.make()
    running = asyncio.ensure_future(one.run())
    failed: list[Exception] = []

    async def until(is_so: Callable[[], bool]) -> None:
        while not is_so():
            assert not running.done()
            await asyncio.sleep(snapshots.LOOK_SECONDS)

    await until(lambda: one.index == 10)
    # Else the log would be pruned of what nobody can read there.
    house.folder.rename(house.folder.with_name("away"))
    await until(lambda: house.said != [])
    assert one.index == 0
    assert str(house.said[-1]).startswith("no shared snapshots: ")
    house.folder.with_name("away").rename(house.folder)
    await until(lambda: one.index == 10)

    def failing(error: Exception) -> Callable[..., Coroutine[None, None, NoReturn]]:
        async def fail(*_: object) -> NoReturn:
            failed.append(error)
            raise error

        return fail

    for place, name, error in (
        (house.leader.store, "current", StoreError("it can't be read now")),
        (house.leader.log, "notes", LogRefusedError("user name is empty")),
    ):
        failed.clear()
        with monkeypatch.context() as patched:
            patched.setattr(place, name, failing(error))
            await until(lambda: len(failed) == 2)
    running.cancel()
    await asyncio.wait({running})


async def test_a_failure_is_over_when_another_leader_takes_the_snapshot(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(place: Folder, snapshot: Snapshot, source: Path) -> None:
        raise PlaceError("the folder is full")

    one, another = house.make(), house.make()
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        await house.look(one)
    await house.look(another)
    assert len(house.said) == 1
    await house.look(one)
    assert house.said[1:] == [None]


async def test_what_does_not_fit_the_log_is_not_counted_and_not_removed(house: House) -> None:
    one = house.make()
    await house.look(one)
    (good,) = house.there
    for index in (99, 10):
        bad = Snapshot(Position(good.position.generation, index, bytes(32)), 3, 2 * WALL_MS, 4, "0" * 64)
        (house.folder / bad.name).write_bytes(b"1234")
    one = house.make()
    await house.look(one)
    assert one.index == 10
    for index in (11, 12, 13):
        await house.leader.write(1)
        house.mono += SNAPSHOT_SECONDS
        await house.look(one)
        assert one.index == index
    assert house.indexes == [10, 12, 13, 99]
    assert good not in house.there


async def test_the_log_keeps_what_the_newest_snapshot_lacks(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "BLOCK_BYTES", 1)
    monkeypatch.setattr(pruning, "BEHIND_BYTES_MAX", 0)
    one = house.make()
    leader = house.leader
    prune = leader.make_pruning(leader.weight, shared=lambda: one.index)
    await leader.register("own", 10)
    await prune.look()
    # There is none yet.
    assert leader.span == Span(1, 10)
    await house.look(one)
    await leader.write(2)
    await leader.register("own", 12)
    await prune.look()
    assert leader.span == Span(11, 12)
    # A snapshot stands for a majority that lags far behind, if the leader's own store has forced it.
    for store_id in ("b", "c"):
        await leader.register(store_id, 0)
    house.mono += SNAPSHOT_SECONDS
    await house.look(one)
    assert one.index == 12
    await leader.write(1)
    await leader.register("own", 11)
    await prune.look()
    assert leader.span == Span(12, 13)
    await leader.register("own", 13)
    await prune.look()
    assert leader.span == Span(13, 13)
    assert leader.told == []
    # Nothing is lost: the log goes on from the snapshot.
    await check_follows(leader.log, house.there[-1].position)


async def test_at_the_bound_the_log_no_longer_waits_for_snapshots_and_that_is_said(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight, "BLOCK_BYTES", 1)
    monkeypatch.setattr(pruning, "LOG_BYTES_MAX", 12 * VALUE_BYTES)
    monkeypatch.setattr(pruning, "BEHIND_BYTES_MAX", 5 * VALUE_BYTES)
    leader = house.leader
    one = house.make()
    prune = leader.make_pruning(leader.weight, shared=lambda: one.index)
    await house.look(one)
    await leader.write(15)
    await leader.register("own", 25)
    await leader.register("b", 20)
    await prune.look()
    assert leader.span == Span(21, 25)
    assert leader.told == []
    await house.look(one)
    assert house.said == [
        "the log has dropped what no shared snapshot has, so tasks are lost if all leaders' disks are"
    ]
    house.mono += SNAPSHOT_SECONDS
    await house.look(one)
    assert house.said[1:] == [None]


async def test_the_newest_snapshot_that_can_follow_the_log_is_fetched(house: House, tmp_path: Path) -> None:
    one = house.make()
    await house.look(one)
    await house.leader.write(1)
    house.mono += SNAPSHOT_SECONDS
    await house.look(one)
    older, newest = house.there
    target = tmp_path / "target"

    async def fetched(least: int = 0) -> int:
        place = Folder(house.folder)
        return (await fetch_newest(place, house.leader.store, house.leader.log, least, target)).index

    assert await fetched() == 11
    with pytest.raises(PlaceError, match="lacks entries"):
        await fetched(12)
    there = house.folder / newest.name
    data = there.read_bytes()
    there.write_bytes(data[:-1] + b"?")
    assert await fetched() == 10
    with pytest.raises(PlaceError, match="damaged.*lacks entries"):
        await fetched(11)
    there.unlink()
    (house.folder / newest.name.replace("-3-", "-4-", 1)).write_bytes(data)
    with pytest.raises(PlaceError, match=r"has format 4: a newer version wrote it"):
        await fetched(11)
    (house.folder / older.name).unlink()
    with pytest.raises(PlaceError, match="has format 4"):
        await fetched()


async def test_a_snapshot_that_has_another_position_than_its_name_is_not_taken(house: House, tmp_path: Path) -> None:
    one = house.make()
    await house.look(one)
    await house.leader.write(1)
    house.mono += SNAPSHOT_SECONDS
    await house.look(one)
    older, newest = house.there
    data = (house.folder / older.name).read_bytes()
    for each in (older, newest):
        (house.folder / each.name).unlink()
    wrong = Snapshot(newest.position, older.format, older.taken_ms, older.size, older.sha256)
    (house.folder / wrong.name).write_bytes(data)
    with pytest.raises(PlaceError, match="is at index 10"):
        await fetch_newest(Folder(house.folder), house.leader.store, house.leader.log, 0, tmp_path / "target")


async def test_a_position_is_compared_with_the_log(house: House) -> None:
    leader = house.leader
    position = (await leader.store.current()).position
    assert position is not None
    positions = [position]
    for _ in range(2):
        await leader.write(1)
        found = (await leader.store.current()).position
        assert found is not None
        positions.append(found)
    for each in positions:
        await check_follows(leader.log, each)
        with pytest.raises(ChainError, match="another entry"):
            await check_follows(leader.log, Position(each.generation, each.index, bytes(32)))
    with pytest.raises(ChainError, match="the log ends at 12"):
        await check_follows(leader.log, Position(position.generation, 13, position.hash))
    with pytest.raises(ChainError, match="generation other"):
        await check_follows(leader.log, Position("other", 10, position.hash))
    await leader.leadership.prune(11)
    # The entry itself is gone, and the next one names it.
    await check_follows(leader.log, position)
    with pytest.raises(ChainError):
        await check_follows(leader.log, Position(position.generation, 10, bytes(32)))


async def test_a_log_that_begins_anew_names_its_place_anew(house: House) -> None:
    await house.look(house.make())
    leader = house.leader
    before = leader.log.place.generation
    assert before is not None
    leader.log.place.begin(Generation("ef", 10, 9), before.id)
    one = house.make()
    await one._is_the_place()
    assert await leader.log.notes(PLACE) == {PLACE: (house.folder / MARK).read_bytes().strip()}
