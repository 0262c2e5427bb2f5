"""Looks whether stores that have applied the same entries hold the same.

The leader that leads appends a check now and then. Each store makes a digest of what it holds at that entry, beside its
other work, and registers it. Then each leader judges its own store: one that is not as most are is replaced by a copy.
On a tie the store of the leader that leads is right.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from gowork.leader._replication.registers import Registration
from gowork.leader.store.protocol import LoggedStore, StoreError

_log = logging.getLogger(__name__)

#: How long after a check the next one comes, in seconds, and how long after a start the first one, unless one passes.
CHECK_SECONDS = 24 * 3600.0
FIRST_CHECK_SECONDS = 3600.0
#: How long a store that is not as the others are waits for the digests that are missing, in seconds.
ANSWER_SECONDS = 600.0


class Verdict(enum.Enum):
    """What is known of one store at a check."""

    #: Its digest is not registered, or that of the leader that leads is not.
    PENDING = "pending"
    EQUAL = "equal"
    DIFFERS = "differs"
    #: Another version of gowork-leader made its digest, which may read other rows.
    OTHER_VERSION = "other version"


def judge(registrations: Mapping[str, Registration], index: int, leading: str) -> dict[str, Verdict]:
    """Returns what is known of each registered store at a check: {store id: verdict}.

    Args:
        registrations: {store id: its registration}
        index: the index of the check.
        leading: the id of the store of the leader that leads.
    """
    lead = registrations.get(leading)
    if lead is None or lead.checked != index:
        return dict.fromkeys(registrations, Verdict.PENDING)
    comparable = {
        store_id: each.digest
        for store_id, each in registrations.items()
        if each.checked == index and each.leader.version == lead.leader.version
    }
    counts = Counter(comparable.values())
    right = max(counts, key=lambda digest: (counts[digest], digest == lead.digest))
    return {
        store_id: Verdict.PENDING
        if each.checked != index
        else Verdict.OTHER_VERSION
        if store_id not in comparable
        else Verdict.EQUAL
        if each.digest == right
        else Verdict.DIFFERS
        for store_id, each in registrations.items()
    }


class Comparison:
    """Makes the digests of one store while `run` is awaited.

    Args:
        store: belongs to the log, and is open.
        mono: returns the time by a monotonic clock, in seconds.
    """

    def __init__(self, store: LoggedStore, mono: Callable[[], float]) -> None:
        self._store = store
        self._mono = mono
        #: The index of the last check whose digest was made, and that digest in hexadecimal; 0 and empty: none was.
        self.checked = 0
        self.digest = ""
        #: Is set when a digest was made.
        self.made = asyncio.Event()
        self._made_mono = 0.0
        #: The index of the check whose digest is being made; 0: none is.
        self.under_way = 0
        #: When the next check is to come, in monotonic seconds.
        self.due_mono = mono() + FIRST_CHECK_SECONDS
        self._asked = asyncio.Event()
        self._begun = asyncio.Event()
        self._is_running = False

    async def run(self) -> None:
        """Runs until it is cancelled."""
        self._is_running = True
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self._make(self.under_way)
                self.under_way = 0
        finally:
            self._is_running = False
            self._begun.set()

    async def begin(self, index: int) -> None:
        """Begins a digest. The store must stand at this check, and may go on when this returns.

        When a digest is being made already, none is made of this check.

        Args:
            index: the index of the check.
        """
        self.due_mono = self._mono() + CHECK_SECONDS
        if not self._is_running:
            return
        if self.under_way:
            _log.warning("no digest of this check, because an older one takes so long", extra={"index": index})
            return
        self.under_way, self._begun = index, asyncio.Event()
        self._asked.set()
        await self._begun.wait()

    def is_wrong(self, registrations: Mapping[str, Registration], store_id: str, leading: str) -> bool:
        """Whether the store is not as most are. While other digests are missing, that is not known for a while.

        Args:
            registrations: {store id: its registration}
            store_id: the store's id.
            leading: the id of the store of the leader that leads.
        """
        if not self.checked:
            return False
        verdicts = judge(registrations, self.checked, leading)
        if verdicts.get(store_id) is not Verdict.DIFFERS:
            return False
        return not _missing(verdicts.values()) or self._mono() - self._made_mono >= ANSWER_SECONDS

    async def _make(self, index: int) -> None:
        began_mono = self._mono()
        try:
            digest = await self._store.digest(self._begun)
        except StoreError as error:
            _log.warning("no digest of the store", extra={"index": index, "reason": str(error)})
            return
        self._made_mono = self._mono()
        self.checked, self.digest = index, digest.hex()
        self.made.set()
        seconds = round(self._made_mono - began_mono, 1)
        _log.info("store has a digest", extra={"index": index, "digest": self.digest[:16], "seconds": seconds})


def _missing(verdicts: Iterable[Verdict]) -> bool:
    return any(each is Verdict.PENDING for each in verdicts)
