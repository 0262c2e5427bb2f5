"""Terms have 23 bits: a leader warns when they come to an end, and begins none when there is none left."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import apsw
import pytest
from leader_serving import PATIENCE, serving
from sharing_leaders import sharing

from gowork.leader._replication import candidacy
from gowork.leader.log import TERM_BITS
from gowork.leader.store.protocol import TERM_MAX, TERM_WARNING, StoreError
from gowork.leader.store.sqlite import SqliteStore


async def put_term(path: Path, term: int) -> None:
    """Makes a store whose next opening comes after this term."""
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with apsw.Connection(str(path)) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'term'", (term,))
    connection.close()


async def test_the_last_term_is_used_and_the_next_opening_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await put_term(path, TERM_MAX - 1)
    store = SqliteStore(path)
    assert (await store.open()).term == TERM_MAX == (1 << TERM_BITS) - 1
    await store.close()
    for _ in range(2):
        with pytest.raises(StoreError, match="has used up all 8,388,607 terms"):
            await SqliteStore(path).open()


@pytest.mark.parametrize(("before", "warns"), [(TERM_WARNING - 2, False), (TERM_WARNING - 1, True)])
async def test_a_leader_warns_when_terms_come_to_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: int, warns: bool
) -> None:
    assert TERM_WARNING == (1 << 23) - (1 << 17)
    await put_term(tmp_path / "leader.db", before)
    caplog.set_level(logging.WARNING)
    async with serving(tmp_path) as leader:
        await leader.submit("a")
    told = [record.__dict__["left"] for record in caplog.records if record.message == "terms come to an end"]
    assert told == ([TERM_MAX - TERM_WARNING] if warns else [])


async def test_leaders_that_share_a_log_say_that_no_term_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        await crew.start("a")
        await crew.says("a", 200, "ready")
        await crew.stop("a")
        crew.place._term = TERM_MAX
        await crew.start("a")
        await crew.says("a", 503, "terms are used up: nobody can lead any more")
        assert crew.place.leader()[0] is None
