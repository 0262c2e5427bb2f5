"""Stores that have applied the same entries have the same digest, whichever way they came there."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from store_histories import histories

from gowork.leader.store.batches import decode_batch, encode_batch
from gowork.leader.store.conformance.logged import BASE, TERM, joined, led, position
from gowork.leader.store.protocol import Batch
from gowork.leader.store.sqlite import SqliteStore


async def digests_of(folder: Path, batches: list[Batch], cut: int) -> set[bytes]:
    """The digests of a store that led, one that followed and one that was alone before it joined the log."""
    end = position(BASE + len(batches))
    leader = SqliteStore(folder / "leader.db")
    await led(await joined(leader), batches)
    follower = SqliteStore(folder / "follower.db")
    await joined(follower)
    entries = [
        (decode_batch(encode_batch(batch)), position(index), TERM) for index, batch in enumerate(batches, BASE + 1)
    ]
    for step in (entries[:cut], entries[cut:]):
        await follower.apply(step)
    lone = SqliteStore(folder / "lone.db")
    await lone.open()
    for batch in batches:
        await lone.commit(batch)
    await lone.close()
    await lone.open_logged(None)
    await lone.join_log(end, TERM)
    stores = (leader, follower, lone)
    found = {await store.digest() for store in stores}
    for store in stores:
        await store.close()
    return found


@settings(max_examples=15, deadline=None)
@given(histories(), st.integers(0, 6))
def test_stores_that_applied_the_same_entries_have_the_same_digest(batches: list[Batch], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert len(asyncio.run(digests_of(Path(folder), batches, cut))) == 1
