"""`gowork store skip` and `gowork store force-lead`: a person has a store go on when no leader can by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from leader_serving import PATIENCE
from memory_log import MemoryLog
from sharing_leaders import Sharing, sharing

from gowork.leader._app import override_commands, standby
from gowork.leader._app.override_commands import force_lead, skip
from gowork.leader._core.model import Position
from gowork.leader._replication import candidacy, upkeep
from gowork.leader.log import Candidate, Span
from gowork.leader.log.entries import Kind, seal
from gowork.leader.store import RESTORE_TERMS, Batch, MovedTask, changed_number
from gowork.leader.store._sqlite_outline import outline
from gowork.leader.store.batches import encode_batch
from gowork.leader.store.conformance import new_task, standing


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.2)
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.2)
    monkeypatch.setattr(standby, "BLOCKED_SECONDS", 0.05)
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)


@pytest.fixture
async def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        monkeypatch.setattr(override_commands, "open_log", lambda url: MemoryLog(crew.place))
        yield crew


async def run(command: object, *arguments: object, log: str = "memory://") -> Result:
    """Runs a command in a thread, because it has a loop of its own."""
    assert command in (skip, force_lead)
    words = [*map(str, arguments), "--log", log]
    result = await asyncio.to_thread(CliRunner().invoke, command, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def position(crew: Sharing, name: str) -> Position:
    found = outline(crew.store_path(name)).position
    assert found is not None
    return found


async def pair(crew: Sharing) -> None:
    """Has a lead and b follow, with two tasks in both stores."""
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.submitted("a", "one", "two")
    await crew.forced("a", "b")


async def poison(crew: Sharing) -> int:
    """Stops both leaders, and appends an entry that no store can apply, as a defect might. Returns its index."""
    await crew.stop("b")
    await crew.stop("a")
    place, at = crew.place, position(crew, "a")
    assert place.generation is not None
    assert at.index == place.span.last
    leadership = await MemoryLog(place).campaign(Candidate(place.generation.id, at.index, 5, b"poison"))
    term = leadership.leader.term
    lost = [new_task(100 + number, changed=changed_number(term, 1)) for number in range(12)]
    batch = Batch(lost, moves=[MovedTask(99, changed_number(term, 1), standing())])
    data, after = seal(at, term, Kind.BATCH, encode_batch(batch), b"nonce")
    await leadership.append(after.index, data)
    await leadership.resign()
    return after.index


async def test_an_entry_that_no_store_can_apply_is_skipped_by_a_person_and_the_cluster_goes_on(crew: Sharing) -> None:
    await pair(crew)
    index = await poison(crew)
    path = crew.store_path("a")
    for name in ("a", "b"):
        await crew.start(name)
        await crew.says(name, 503, f"Entry {index} of the log can't be applied")
    for name in ("a", "b"):
        await crew.stop(name)
    asked = await run(skip, index, path)
    assert asked.exit_code == 2
    assert "--yes" in asked.stderr
    assert "12 new tasks (task-100, task-101" in asked.stderr
    assert "task-109, …); 1 changes of tasks" in asked.stderr
    assert position(crew, "a").index == index - 1
    done = await run(skip, index, path, "--yes")
    assert (done.exit_code, done.exception) == (0, None)
    assert f"can't apply entry {index}, of term" in done.stderr
    assert position(crew, "a").index == index
    served = await crew.start("a")
    await crew.says("a", 200, "ready")
    await served.submit("after")
    # The others take copies of its store by themselves.
    await crew.start("b")
    await crew.replaced("b")
    assert len(crew.asides("b")) == 1
    assert {task.id for task in await served.list()} == {"one", "two", "after"}


async def test_nothing_is_skipped_that_can_be_applied_or_is_not_next_or_not_there(crew: Sharing) -> None:
    await pair(crew)
    path = crew.store_path("b")
    at = position(crew, "b").index
    assert "is in use by another leader" in (await run(skip, at + 1, path, "--yes")).stderr
    await crew.stop("b")
    await crew.submitted("a", "three")
    await crew.stop("a")
    at = position(crew, "b").index
    for index, words in (
        (at + 1, f"the store can apply entry {at + 1}: start its leader"),
        (at, f"the store is at entry {at}, so only entry {at + 1}"),
        (at + 2, f"the store is at entry {at}, so only entry {at + 1}"),
    ):
        result = await run(skip, index, path, "--yes")
        assert result.exit_code == 1
        assert words in result.stderr
    assert position(crew, "b").index == at
    last = position(crew, "a").index
    result = await run(skip, last + 1, crew.store_path("a"), "--yes")
    assert f"and not entry {last + 1}" in result.stderr
    crew.place.span = crew.place.span._replace(first=last)
    if at + 1 < last:
        assert f"and not entry {at + 1}" in (await run(skip, at + 1, path, "--yes")).stderr


async def last_one_left(crew: Sharing) -> int:
    """Has b lag behind what the log still has, and a's store lost. Returns the last index."""
    await pair(crew)
    await crew.stop("b")
    for number in range(3):
        await crew.submitted("a", f"lost-{number}")
    while True:
        found = await crew.registered("a", "b")
        if found["a"].applied == crew.place.span.last:
            break
        await asyncio.sleep(0.02)
    leader, _ = crew.place.leader()
    assert leader is not None
    crew.place.prune(leader.token, crew.place.span.last)
    await crew.stop("a")
    for path in crew.store_path("a").parent.glob("a.db*"):
        path.unlink()
    return crew.place.span.last


async def test_a_lagging_store_that_is_the_only_one_left_is_made_to_lead_by_a_person(crew: Sharing) -> None:
    last = await last_one_left(crew)
    path = crew.store_path("b")
    before = outline(path)
    assert before.position is not None
    await crew.start("b")
    await crew.says("b", 503, "what was before it is in copies of stores alone")
    await crew.stop("b")
    asked = await run(force_lead, path)
    assert asked.exit_code == 2
    applied = before.position.index
    assert f"Lost: {last - applied} entries, {applied + 1} to {last}" in asked.stderr
    # The one that had come further is named.
    assert "a, with the store " in asked.stderr
    assert f"had come to entry {last}: if that store is still there, start its leader instead" in asked.stderr
    assert outline(path) == before
    done = await run(force_lead, path, "--yes")
    assert (done.exit_code, done.exception) == (0, None)
    generation = crew.place.generation
    assert generation is not None
    assert generation.id in done.stdout
    assert generation.id == outline(path).store_id != before.position.generation
    assert (generation.base, generation.term_floor > before.term + RESTORE_TERMS - 1) == (last, True)
    served = await crew.start("b")
    await crew.says("b", 200, "ready")
    assert {task.id for task in await served.list()} == {"one", "two"}
    await served.submit("after")
    leader, _ = crew.place.leader()
    assert leader is not None
    assert leader.term > generation.term_floor
    await crew.start("a")
    await crew.says("a", 200, "follows")
    assert position(crew, "a").generation == generation.id


async def test_force_lead_that_was_cut_short_may_be_repeated(crew: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    last = await last_one_left(crew)
    path = crew.store_path("b")

    class CutError(Exception):
        pass

    async def cut(log: MemoryLog, *_: object) -> None:
        raise CutError

    with monkeypatch.context() as patched:
        patched.setattr(MemoryLog, "begin", cut)
        with pytest.raises(CutError):
            await run(force_lead, path, "--yes")
    assert outline(path).position is None
    done = await run(force_lead, path, "--yes")
    assert done.exit_code == 0
    assert f"all that the log ever had, up to entry {last}" in done.stderr
    await crew.start("b")
    await crew.says("b", 200, "ready")


async def test_a_store_that_has_more_than_the_log_is_made_to_lead_by_a_person(crew: Sharing) -> None:
    await pair(crew)
    await crew.stop("b")
    await crew.stop("a")
    applied, place = position(crew, "a").index, crew.place
    # As an etcd that was restored from an earlier snapshot, or whose keys somebody has removed.
    place.span = Span(1, 1)
    place.entries = {1: place.entries[1]}
    asked = await run(force_lead, crew.store_path("a"))
    assert asked.exit_code == 2
    assert f"Lost: what was acknowledged after entry {applied}, which this store has applied" in asked.stderr
    done = await run(force_lead, crew.store_path("a"), "--yes")
    assert (done.exit_code, done.exception) == (0, None)
    served = await crew.start("a")
    await crew.says("a", 200, "ready")
    assert {task.id for task in await served.list()} == {"one", "two"}


async def test_no_store_is_made_to_lead_that_can_or_while_a_leader_leads(crew: Sharing) -> None:
    await pair(crew)
    result = await run(force_lead, crew.store_path("b"), "--yes")
    assert "a leads, so nothing need be forced" in result.stderr
    await crew.stop("b")
    await crew.submitted("a", "three")
    await crew.stop("a")
    before = crew.place.generation
    result = await run(force_lead, crew.store_path("b"), "--yes")
    assert (result.exit_code, crew.place.generation) == (1, before)
    assert "the log still has all that the store lacks" in result.stderr
    crew.place.generation = None
    assert "the log has not begun" in (await run(force_lead, crew.store_path("b"), "--yes")).stderr


async def test_a_file_that_is_no_store_is_named(crew: Sharing, tmp_path: Path) -> None:
    for arguments in ((skip, 1, tmp_path / "none.db"), (force_lead, tmp_path / "none.db")):
        result = await run(*arguments, "--yes")
        assert result.exit_code == 1
        assert "none.db is not there" in result.stderr
