"""What every store must do, as pytest classes; the protocol says it in words.

A store's own tests subclass them and tell how it is opened:

    class TestEtcd(StoreConformance, DurabilityConformance):
        @pytest.fixture
        def store_url(self, etcd):
            return f"etcd://{etcd.address}/{uuid4()}"

`store_url` names a place that no other test uses. A store that can't be named by a URL, a fake for instance, gives a
fixture `open_store` instead: a function that answers a store on the same data at each call, not opened yet. One whose
backups are no files of SQLite gives `open_backup`, which makes a store of the copy at a path.
DurabilityConformance starts real processes on the URL and kills them. The extra `gowork-leader[conformance]` installs
what both need.
"""

from gowork.leader.store.conformance.durability import DurabilityConformance
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_LANE,
    FULL_STANDING,
    StoreFactory,
    all_unfinished,
    facts_of,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.conformance.suite import StoreConformance

__all__ = [
    "ALL_BYTES",
    "FULL_LANE",
    "FULL_STANDING",
    "DurabilityConformance",
    "StoreConformance",
    "StoreFactory",
    "all_unfinished",
    "facts_of",
    "new_task",
    "seqs_of_page",
    "standing",
]
