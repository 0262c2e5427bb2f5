"""Builds the state from a store, so that the leader goes on where the last one stopped."""

from __future__ import annotations

from typing import Any

import msgspec

from gowork.leader._core.apply import apply, expect, recall
from gowork.leader._core.callbacks import take_up
from gowork.leader._core.facts import Kind, V
from gowork.leader._core.kinds import KINDS
from gowork.leader._core.model import Fact, Now
from gowork.leader._core.state import Settings, State
from gowork.leader._core.step import take
from gowork.leader._engine.loading import Loader
from gowork.leader.store.protocol import TERM_SHIFT, Opened, Store, StoreFormatError

#: How many facts of one kind are read at a time, and how many bytes they may take.
FACTS_PAGE = 2_000
FACTS_BYTES_MAX = 16 << 20


async def recover(store: Store, opened: Opened, settings: Settings, now: Now) -> tuple[State, int]:
    """Returns the state as the last leader left it, and how many of its tasks are unfinished.

    Raises:
        StoreError: the store, or a fact in it, can't be read.
    """
    state = State(settings, fence=opened.term << TERM_SHIFT, next_seq=opened.next_seq)
    state.agenda.since_ms = now.wall_ms
    for kind in KINDS:
        await _recall(store, state, kind, now)
    unfinished = await Loader(store, state).recover()
    for change in take_up(state, now).changes:
        apply(state, change)
    expect(state, now.mono + settings.lease)
    # The store has all of these changes, so they are not written again.
    take(state)
    return state, unfinished


async def _recall(store: Store, state: State, kind: Kind[Any], now: Now) -> None:
    """Takes up all facts of a kind."""
    after = ""
    # Only an empty page is the end: any other page may have stopped at FACTS_BYTES_MAX.
    while facts := await store.facts(kind.name, after, FACTS_PAGE, FACTS_BYTES_MAX):
        for fact in facts:
            recall(state, kind, fact.key, _read(kind, fact), now)
        after = facts[-1].key


def _read(kind: Kind[V], fact: Fact) -> V:
    try:
        return kind.decode(fact.value)
    except msgspec.DecodeError as error:
        message = f"the store is damaged: its record of {kind.name} {fact.key!r} can't be read; start from a backup"
        raise StoreFormatError(message) from error
