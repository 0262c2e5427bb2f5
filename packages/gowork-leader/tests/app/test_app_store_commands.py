"""The commands `gowork store show`, `detach` and `downgrade`."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gowork.leader._app.override_commands import force_lead, skip
from gowork.leader._app.store_commands import detach, downgrade, show
from gowork.leader._core.model import Position
from gowork.leader.store import Batch, Fact
from gowork.leader.store.protocol import RESTORE_TERMS, StoreError
from gowork.leader.store.sqlite import SqliteStore

GENERATION = "f00d"


def run(*arguments: str) -> Result:
    command = {"show": show, "detach": detach}[arguments[0]]
    result = CliRunner().invoke(command, arguments[1:])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
async def lone(tmp_path: Path) -> Path:
    """A store that belongs to no log."""
    store = SqliteStore(tmp_path / "lone.db")
    await store.open()
    await store.close()
    return store.path


async def opened_logged(path: Path) -> SqliteStore:
    store = SqliteStore(path)
    await store.open_logged(None)
    await store.join_log(Position(GENERATION, 0, bytes(32)), 0)
    await store.apply([(Batch(facts=[Fact("notes", "a", b"v")]), Position(GENERATION, 1, b"h" * 32), 7)])
    return store


@pytest.fixture
async def logged(tmp_path: Path) -> Path:
    """A closed store that belongs to a log."""
    store = await opened_logged(tmp_path / "logged.db")
    await store.close()
    return store.path


def told(path: Path) -> dict[str, object]:
    result = run("show", str(path), "-o", "json")
    assert result.exit_code == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_store_that_belongs_to_no_log_says_so(lone: Path) -> None:
    found = told(lone)
    assert (found["format"], found["term"], found["log"]) == (4, 1, None)
    assert found["bytes"] == lone.stat().st_size
    assert len(str(found["store_id"])) == 32
    assert "belongs to none" in run("show", str(lone)).stdout


def test_a_store_of_a_log_says_where_it_stands_in_it(logged: Path) -> None:
    found = told(logged)
    assert (found["format"], found["term"]) == (5, 7)
    assert found["log"] == {"generation": GENERATION, "index": 1, "hash": (b"h" * 32).hex()}
    lines = run("show", str(logged)).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["file", "format", "store", "term", "log"]
    assert f"index 1 of generation {GENERATION}" in lines[-1]


def test_showing_a_store_changes_nothing_and_leaves_nothing(logged: Path) -> None:
    before = sorted(logged.parent.iterdir()), logged.read_bytes()
    run("show", str(logged))
    assert (sorted(logged.parent.iterdir()), logged.read_bytes()) == before


async def test_a_store_that_a_leader_uses_is_shown_as_it_is_now(tmp_path: Path) -> None:
    store = await opened_logged(tmp_path / "used.db")
    await store.apply([(None, Position(GENERATION, 2, b"i" * 32), 8)])
    found = told(store.path)
    assert found["term"] == 8
    refused = await asyncio.to_thread(run, "detach", str(store.path), "--yes")
    assert refused.exit_code == 1
    assert "in use" in refused.stderr
    await store.close()


@pytest.mark.parametrize("content", [None, b"", b"no database at all"])
@pytest.mark.parametrize("command", [["show"], ["detach", "--yes"]])
def test_what_is_no_store_is_an_error_in_one_line(tmp_path: Path, command: list[str], content: bytes | None) -> None:
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    result = run(*command, str(path))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(path) in line
    assert content is None or path.read_bytes() == content


async def test_a_detached_store_opens_without_its_log_in_a_higher_term(logged: Path) -> None:
    with pytest.raises(StoreError, match="gowork store detach"):
        await SqliteStore(logged).open()
    result = await asyncio.to_thread(run, "detach", str(logged), "--yes")
    assert result.exit_code == 0, result.stderr
    assert "without --log, or begin a new log with it" in result.stdout
    found = told(logged)
    assert (found["format"], found["term"], found["log"]) == (4, 7 + RESTORE_TERMS, None)
    store = SqliteStore(logged)
    assert (await store.open()).term == 7 + RESTORE_TERMS + 1
    assert [fact.key for fact in await store.facts("notes", "", 10, 1000)] == ["a"]
    await store.close()


def test_nothing_is_detached_without_an_answer(logged: Path) -> None:
    before = logged.read_bytes()
    result = run("detach", str(logged))
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert logged.read_bytes() == before


def test_a_store_of_no_log_is_not_detached(lone: Path) -> None:
    result = run("detach", str(lone), "--yes")
    assert result.exit_code == 1
    assert "belongs to no log" in result.stderr


def test_the_commands_are_found_by_their_entry_points() -> None:
    found = {entry.name: entry.load() for entry in entry_points(group="gowork.store_commands")}
    commands = {"show": show, "detach": detach, "downgrade": downgrade, "skip": skip, "force-lead": force_lead}
    assert found == commands


async def test_downgrade_brings_a_closed_store_to_the_older_format_once(tmp_path: Path) -> None:
    path = tmp_path / "gowork.db"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    done = CliRunner().invoke(downgrade, [str(path)])
    assert (done.exit_code, done.output) == (0, f"{path} has format 2 now; start the older version on it\n")
    again = CliRunner().invoke(downgrade, [str(path)])
    assert again.exit_code == 1
    assert "has format 2 already" in again.output
