"""All that one process can see of a store."""

from __future__ import annotations

from gowork.leader.store.conformance.backups import BackupConformance
from gowork.leader.store.conformance.facts import FactConformance
from gowork.leader.store.conformance.lanes import LaneConformance
from gowork.leader.store.conformance.queries import QueryConformance
from gowork.leader.store.conformance.records import RecordConformance
from gowork.leader.store.conformance.removals import RemovalConformance


class StoreConformance(
    RecordConformance, FactConformance, LaneConformance, QueryConformance, RemovalConformance, BackupConformance
):
    """The protocol, by one process."""
