"""All rules of the protocol that can be checked within one process."""

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
    """Checks all rules of the protocol that can be checked within one process."""
