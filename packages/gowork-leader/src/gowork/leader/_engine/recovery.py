"""Takes up where the last leader stopped: builds the state from what a store has."""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core.apply import apply, expect
from gowork.leader._core.callbacks import take_up
from gowork.leader._core.model import Now
from gowork.leader._core.state import Settings, State
from gowork.leader._core.step import take
from gowork.leader._engine.loading import Loader
from gowork.leader.store.protocol import TERM_SHIFT, Opened, Store


async def recover(store: Store, opened: Opened, settings: Settings, now: Now) -> tuple[State, int]:
    """The state as the last leader left it, and how many of its tasks are unfinished.

    Raises:
        StoreError: when the store can't be read.
    """
    state = State(settings, fence=opened.term << TERM_SHIFT, next_seq=opened.next_seq)
    callback_lease = now.mono + settings.callback_lease
    for member in await store.members():
        apply(state, ch.CallbackJoined(member.id, member.address, callback_lease, member.joined_ms))
    for queue in await store.queues():
        # Without tokens: a rate holds over a restart too.
        apply(state, ch.QueueConfigured(queue.name, queue.settings, 0.0, now.mono))
    unfinished = await Loader(store, state).recover()
    for change in take_up(state, now).changes:
        apply(state, change)
    expect(state, now.mono + settings.lease)
    # The store has all of it.
    take(state)
    return state, unfinished
