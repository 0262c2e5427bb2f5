"""What a leader asks of a log. The suite in `gowork.leader.log.conformance` says the same in tests.

A log keeps entries under the indexes 1, 2, 3 and so on, and knows which leader may append. An entry is bytes, which the
log does not read. Safety rests on no clock: each append compares the leadership in the transaction that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct


class LogError(Exception):
    """The log can't be used. The message says what to do."""


class LogUnreachableError(LogError):
    """The log did not answer in time. If something was to be written, whether it was written is unknown."""


class LogRefusedError(LogError):
    """The log refuses this user, or this call. Nothing was written."""


class LogFullError(LogError):
    """The log has no room. Nothing was written, and the same call may be repeated later."""


class LogDamagedError(LogError):
    """The log contradicts itself: an entry is missing, or another entry is where this one belongs."""


def ends_before(applied: int, last: int) -> LogDamagedError:
    """Returns what says that a store has applied more entries than the log has.

    Args:
        applied: the index of the last entry that the store has applied.
        last: the index of the last entry that the log has.
    """
    return LogDamagedError(
        f"the log ends at entry {last}, before entry {applied}, which the store has applied; it was put back to an "
        f"earlier state, or somebody has removed entries: put back what it had, or stop all leaders and run `gowork "
        f"store force-lead` with the store that has come furthest"
    )


class LeadershipLostError(LogError):
    """This leader leads no more. Whether its last append was written is unknown; its successor will see."""


class NotElectedError(LogError):
    """The candidate was not elected, and nothing has changed. The message says why."""


class TermsUsedUpError(NotElectedError):
    """There is no term left that could be given."""


class GenerationError(NotElectedError):
    """The log has another generation than the caller thinks."""


def not_begun() -> GenerationError:
    """Returns what says that a log has not begun."""
    return GenerationError(
        "the log has not begun, or somebody has removed what it had: name the right log, or run `gowork store detach` "
        "with the store that has come furthest, and start its leader first"
    )


class PrunedError(LogError):
    """The next entry was pruned: a copy of a store is needed to go on.

    Args:
        first: the index of the first entry that the log still has.
    """

    def __init__(self, first: int) -> None:
        super().__init__(f"the log begins with entry {first}: what was before it is in copies of stores alone")
        self.first = first


class Generation(Struct, frozen=True):
    """One life of a log. A restored or moved cluster begins a new one."""

    #: Random; hexadecimal.
    id: str
    #: The index before that of its first entry.
    base: int = 0
    #: All its terms are above this.
    term_floor: int = 0
    #: The id of the generation whose stores a restored backup replaces; empty: it replaces none.
    replaces: str = ""
    #: The SHA-256 of that backup, in hexadecimal; empty: it was begun with none.
    backup: str = ""


class Span(NamedTuple):
    """Which entries a log has."""

    #: The index of the first entry, or of the one that will be the first.
    first: int
    #: The index of the last entry; `first - 1` when there is none.
    last: int


class LogEntry(Struct, frozen=True, gc=False):
    """An entry under its index."""

    index: int
    data: bytes


class Leader(Struct, frozen=True):
    """Who leads, as the log has it."""

    term: int
    #: Names this leadership among all. Two leaderships never have the same.
    token: int
    #: What the leader says of itself to the others. The log does not read it.
    announcement: bytes


class Candidate(Struct, frozen=True):
    """Who wants to lead."""

    #: The id of the generation that its store belongs to.
    generation: str
    #: The index of the last entry that its store has applied.
    applied: int
    #: The highest term that its store knows.
    term: int
    #: See Leader.announcement.
    announcement: bytes


class Leadership(Protocol):
    """The right to append to a log. It ends once, and never comes back."""

    @property
    def leader(self) -> Leader:
        """What the log says of it."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Is set as soon as this process knows that the leadership is over, at the end of its own lease at the latest.

        It saves time, and proves nothing while it is not set.
        """
        ...

    def holds(self) -> bool:
        """Whether its own lease still runs, by a clock that also counts the time that the machine sleeps.

        The lease is counted from the sending of the last keepalive that was answered. False never becomes True again.
        """
        ...

    async def append(self, index: int, data: bytes) -> None:
        """Appends an entry. When it returns, the log has it, and has it durably.

        When it is unknown whether an attempt wrote the entry, the same bytes are appended again at the same index until
        that is settled.

        Args:
            index: the index after that of the last entry.
            data: the entry, not empty, of at most ENTRY_BYTES_MAX. It must differ from what any other leader appends.

        Raises:
            LogFullError, LogRefusedError: nothing was written.
            LeadershipLostError: whether it was written is unknown. Nothing more can be written.
            LogDamagedError: there is another entry at this index, or none before it.
        """
        ...

    async def confirm(self) -> None:
        """Returns if, at some time between call and return, this leadership was still the log's.

        Raises:
            LeadershipLostError: it is over, or its own lease ended before the log answered.
        """
        ...

    async def prune(self, before: int) -> None:
        """Removes the entries with an index below `before`, but never the last one. Harmless when repeated.

        Raises:
            LeadershipLostError, LogUnreachableError, LogRefusedError.
        """
        ...

    async def resign(self) -> None:
        """Ends the leadership, so that another can be elected at once. Harmless when repeated, and when it is lost."""
        ...


class Log(Protocol):
    """A log that several leaders share. Calls may overlap."""

    async def open(self) -> None:
        """Connects to the log, and checks that this program can use it.

        Raises:
            LogUnreachableError, LogRefusedError, LogError: it is too old, or something else is there.
        """
        ...

    async def close(self) -> None:
        """Ends all connections. A leadership is given up. Harmless when repeated."""
        ...

    async def generation(self) -> Generation | None:
        """Returns the generation of the log; None when it has not begun."""
        ...

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        """Begins a generation. What the log had before is removed: entries, leadership and notes.

        Args:
            generation: the new one. Its term floor must be at least as high as any term that was given before.
            replaces: the id of the generation that it comes after; None: the log has not begun.

        Raises:
            GenerationError: the log has another generation by now. Nothing was changed.
            LogUnreachableError, LogRefusedError.
        """
        ...

    async def span(self) -> Span:
        """Returns which entries the log has, at some time between call and return.

        Raises:
            GenerationError: the log has not begun.
            LogUnreachableError, LogRefusedError.
        """
        ...

    def leaders(self) -> AsyncGenerator[Leader | None, None]:
        """Yields who leads now, or None, and then each change, until it is closed. It may leave out short ones.

        Raises:
            LogUnreachableError, LogRefusedError.
        """
        ...

    async def campaign(self, candidate: Candidate) -> Leadership:
        """Tries once to become the leader. The term is above all that the log has given, and is given with it.

        Raises:
            NotElectedError: another leads, or the candidate lacks entries that the log has no more.
            GenerationError: the candidate's store belongs to another generation.
            LogDamagedError: the log ends before the last entry that the candidate's store has applied.
            LogUnreachableError: it is unknown whether it was elected. It does not lead; if it was elected, that ends
                by itself within the lease.
            LogRefusedError, LogFullError.
        """
        ...

    async def depose(self, leader: Leader) -> bool:
        """Ends the leadership of a leader that is known to have ended. Returns whether it was still there.

        Raises:
            LogUnreachableError, LogRefusedError.
        """
        ...

    def follow(self, after: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        """Yields the entries after an index as they come, in order and without a gap, until it is closed.

        It goes on by itself while the log can't be reached for a while.

        Raises:
            PrunedError: the log no longer has the entry after `after`.
            LogDamagedError: an entry is missing, or the log ends before `after`.
            LogUnreachableError: the log has not answered for FOLLOW_SECONDS.
            LogRefusedError.
        """
        ...

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        """Keeps a small record beside the entries, in place of an older one with this key.

        Args:
            key: printable ASCII without spaces, at most 200 characters.
            value: at most 64 KiB.
            seconds: for how long, at least; None: until it is dropped.

        Raises:
            LogFullError, LogUnreachableError, LogRefusedError.
        """
        ...

    async def drop_note(self, key: str) -> None:
        """Removes a record. Harmless when there is none."""
        ...

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """Returns {key: value} of the records whose keys begin with the prefix."""
        ...


#: How many bits a term has in fences and in `changed`.
TERM_BITS = 23
#: The largest entry, in bytes.
ENTRY_BYTES_MAX = 64 << 20
#: For how long `follow` tries to reach the log before it gives up, in seconds.
FOLLOW_SECONDS = 30.0


def next_term(*known: int) -> int:
    """Returns the term that comes after all of these.

    Raises:
        TermsUsedUpError: there is none.
    """
    term = max(known) + 1
    if term >= 1 << TERM_BITS:
        raise TermsUsedUpError(
            f"all {1 << TERM_BITS} terms are used up: nobody can lead any more. Export the tasks into a new cluster."
        )
    return term
