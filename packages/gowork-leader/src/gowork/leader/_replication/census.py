"""Which leaders share a log, how far each has come, and which of them leads: what operators ask."""

from __future__ import annotations

import logging
from contextlib import aclosing

import msgspec
from msgspec import Struct

from gowork.leader._replication import announcement
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.registers import Registration, registered
from gowork.leader.log.protocol import Leader, Log, Span

_log = logging.getLogger(__name__)

#: A leader that was seen so lately can take over, in milliseconds. Leaders register at least every ten seconds.
SUCCESSOR_MS = 30_000


class LeaderView(Struct, frozen=True):
    """One leader. What it says of itself may be as old as `seen_ms`."""

    announcement: Announcement
    #: The term that it leads; 0: it does not lead.
    term: int
    #: The indexes of the last entry that its store has applied, and of the last one that it has forced to disk.
    applied: int
    forced: int
    #: How many entries the log has beyond what was applied.
    lag: int
    #: When it was registered, in wall-clock milliseconds; 0: it leads, and is not registered yet.
    seen_ms: int
    #: Whether its disk has room for what a leader writes, as far as it has said.
    has_room: bool = True


class Census(Struct, frozen=True):
    """The leaders of a log, at one moment."""

    #: The id of the log's generation.
    generation: str
    span: Span
    #: The one that leads comes first, then all by their names and store ids.
    leaders: list[LeaderView]

    @property
    def leading(self) -> LeaderView | None:
        """The leader that leads; None when none does."""
        return self.leaders[0] if self.leaders and self.leaders[0].term else None


async def take_census(log: Log, own: Announcement, applied: int, now_ms: int) -> Census:
    """Returns which leaders there are.

    Args:
        log: is open, and has begun.
        own: what the leader that asks says of itself. It is in the census also when it is not registered yet.
        applied: the index of the last entry that its store has applied.
        now_ms: the time, in wall-clock milliseconds.

    Raises:
        LogUnreachableError, LogRefusedError.
    """
    generation = await log.generation()
    found = await registered(log)
    leading = await leading_of(log)
    # Read last, so that no store has more than the log.
    span = await log.span()
    known = found.get(own.store_id)
    found[own.store_id] = Registration(own, applied, known.forced if known else 0, now_ms, known.format if known else 0)
    views = [_view(registration, leading, span) for registration in found.values()]
    if leading is not None and not any(view.term for view in views):
        views.append(LeaderView(announced_by(leading), leading.term, span.last, 0, 0, 0))
    views.sort(key=lambda view: (not view.term, view.announcement.name, view.announcement.store_id))
    return Census(generation.id if generation else "", span, views)


def unfit(view: LeaderView, census: Census, seconds: float) -> str:
    """Returns why a leader that registered last `seconds` ago can't take over; empty when it can."""
    name = view.announcement.name
    if seconds > SUCCESSOR_MS / 1000:
        return f"{name} was last seen {seconds:.0f} s ago"
    if view.applied + 1 < census.span.first:
        return f"{name} lacks entries that the log has no more, and takes a copy first"
    if not view.has_room:
        return f"{name} has no room on its disk"
    return ""


async def leading_of(log: Log) -> Leader | None:
    """Returns who leads; None when nobody does."""
    async with aclosing(log.leaders()) as leaders:
        async for leader in leaders:
            return leader
    return None


def _view(registration: Registration, leading: Leader | None, span: Span) -> LeaderView:
    own = registration.leader
    led = announced_by(leading) if leading is not None else None
    if leading is not None and led is not None and led.store_id == own.store_id:
        # Who leads has applied all, because it appends the next entry only then.
        return LeaderView(
            led, leading.term, span.last, registration.forced, 0, registration.seen_ms, registration.has_room
        )
    lag = max(0, span.last - registration.applied)
    seen_ms, has_room = registration.seen_ms, registration.has_room
    return LeaderView(own, 0, registration.applied, registration.forced, lag, seen_ms, has_room)


def announced_by(leader: Leader) -> Announcement:
    """Returns what a leader says of itself."""
    try:
        return announcement.decode(leader.announcement)
    except msgspec.MsgspecError as error:
        _log.warning("announcement can't be read", extra={"term": leader.term, "reason": str(error)})
        return announcement.UNREADABLE
