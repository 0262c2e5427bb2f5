"""The values of `Client.leaders`: the leaders of the cluster, and the log that they share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class LeaderInfo:
    """One leader, as it has registered itself. Leaders register at least every ten seconds."""

    #: Its name among the leaders, which need not be unique.
    name: str
    #: The id of its store, which no other leader has.
    store_id: str
    #: Whether it leads.
    leads: bool
    #: The number of its term; 0 when it does not lead.
    term: int
    #: Since when it leads; None when it does not.
    leads_since: datetime | None
    #: The index of the last entry of the log that its store has applied; 0 without a log.
    applied_index: int
    #: The index of the last entry that its store has forced to disk; 0 when it has not said.
    forced_index: int
    #: How many entries the log has now that its store had not applied at `seen_at`.
    lag_entries: int
    #: Where it serves workers, clients, and probes and metrics, each as HOST:PORT.
    cluster_address: str
    scheduler_address: str
    http_address: str
    #: The version of gowork-leader.
    version: str
    #: When it registered last; None when it leads and is not registered yet.
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class LogInfo:
    """The log that leaders share."""

    #: The id of its generation. A restored or moved cluster begins a new one.
    generation: str
    #: The index of its first entry, because older ones are pruned.
    first_index: int
    #: The index of its last entry; `first_index - 1` when there is none.
    last_index: int


@dataclass(frozen=True, slots=True)
class Leaders:
    """The leaders of the cluster at the time of the call."""

    #: The one that leads is first; the others follow by name.
    leaders: tuple[LeaderInfo, ...]
    #: None when the leader has no log.
    log: LogInfo | None
    #: The id of the store of the leader that answered.
    answered_by: str

    @property
    def leading(self) -> LeaderInfo | None:
        """The leader that leads; None while none does."""
        return next((leader for leader in self.leaders if leader.leads), None)


class StoreVerdict(StrEnum):
    """What is known of one store in a comparison."""

    UNSPECIFIED = "UNSPECIFIED"
    #: Its digest is not known yet.
    PENDING = "PENDING"
    #: It holds what most stores hold.
    EQUAL = "EQUAL"
    #: It holds something else than most stores, and is replaced by a copy.
    DIFFERS = "DIFFERS"
    #: Another version of gowork-leader made its digest, so it can't be compared.
    OTHER_VERSION = "OTHER_VERSION"


@dataclass(frozen=True, slots=True)
class ComparedStore:
    """One store in a comparison."""

    #: The name of its leader.
    name: str
    #: The id of the store.
    store_id: str
    verdict: StoreVerdict


@dataclass(frozen=True, slots=True)
class StoreComparison:
    """What is known of the stores of all leaders at one entry of the log."""

    #: The index of the entry.
    index: int
    #: By the names of their leaders.
    stores: tuple[ComparedStore, ...]
