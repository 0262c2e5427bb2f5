"""Has a store begin a generation of a log that has begun before: with a backup, or with what a person chooses.

What the log had is removed, and comes back from no store. So a leader never does it by itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from gowork.leader._replication.census import announced_by, leading_of
from gowork.leader._replication.chain import entry_after
from gowork.leader.log.entries import term_of
from gowork.leader.log.protocol import Generation, Log, LogError, Span
from gowork.leader.store.protocol import RESTORE_TERMS, LoggedStore, StoreError


async def last_term(log: Log, span: Span) -> int:
    """Returns the term of the log's last entry; 0: it has none.

    Raises:
        ChainError, NewerFormatError: the entry can't be read.
        LogUnreachableError, LogRefusedError, LogDamagedError.
    """
    return term_of(span.last, (await entry_after(log, span.last - 1)).data) if span.first <= span.last else 0


async def begin_after(
    log: Log, store: LoggedStore, old: Generation, span: Span, term: int, *, replaces: str = "", backup: str = ""
) -> Generation:
    """Begins a generation with what a closed store has, which belongs to no log. Returns it.

    When it is cut short, the store still belongs to no log, and its id names the generation.

    Args:
        log: is open.
        store: is closed.
        old: the log's present generation.
        span: which entries that one has.
        term: the term of the last of them; 0: it has none.
        replaces: see Generation.
        backup: see Generation.

    Raises:
        GenerationError: another generation was begun meanwhile.
        StoreError, LogError: the store or the log can't be used.
    """
    opened = await store.open()
    await store.close()
    # Terms are above all that were ever given, so that fences and tokens of the lost entries are not given again.
    floor = max(opened.term, max(term, old.term_floor) + RESTORE_TERMS)
    generation = Generation(opened.store_id, span.last, floor, replaces, backup)
    await log.begin(generation, old.id)
    return generation


async def restore(log: Log, store: LoggedStore, backup: Path) -> Generation | None:
    """Makes a store from a backup, and begins a generation of the log with it. Returns the generation.

    None: the log has not begun, so that only the store was made.

    Args:
        log: is open.
        store: there is none yet.
        backup: a backup of a store.

    Raises:
        StoreError: see Store.restore; or a leader leads; or the log was begun from this backup already. Nothing was
            changed. Or the store was made, and whether the generation has begun is unknown.
        ChainError, NewerFormatError: the end of the log can't be read. Nothing was changed.
        LogError: the log can't be used. Nothing was changed.
    """
    old = await log.generation()
    if old is None:
        await store.restore(backup)
        return None
    leader = await leading_of(log)
    if leader is not None:
        raise StoreError(
            f"{announced_by(leader).name} leads with this log, which would begin anew with the backup: stop all "
            f"leaders first. If this leader was restored already, leave --restore out."
        )
    digest = await asyncio.to_thread(_digest, backup)
    if digest == old.backup:
        raise StoreError(
            f"generation {old.id} of the log was begun with {backup} already, and nothing was restored again: leave "
            f"--restore out"
        )
    span = await log.span()
    term = await last_term(log, span)
    # A generation may have no entry yet, and an older backup may come after a newer one.
    await store.restore(backup, max(term, old.term_floor))
    try:
        return await begin_after(log, store, old, span, term, replaces=old.id, backup=digest)
    except LogError as error:
        raise StoreError(
            f"the store was made from {backup}, and the log may not have begun anew with it: {error}. Start this "
            f"leader without --restore. If it says that the log has begun already, move the store away and restore "
            f"once more."
        ) from error


def _digest(backup: Path) -> str:
    try:
        with backup.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{backup} can't be read: {error.strerror or error}.") from error
