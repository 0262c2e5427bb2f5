"""What every store must do, as pytest classes. The protocol says the same in words.

A store's own tests subclass them and say how the store is opened:

    class TestEtcd(StoreConformance, DurabilityConformance):
        @pytest.fixture
        def store_url(self, etcd):
            return f"etcd://{etcd.address}/{uuid4()}"

`store_url` is a URL that no other test uses. For a store without a URL, such as a fake, write a fixture `open_store`
instead: a function that returns a store on the same data at each call, not opened yet. If backups are not files of
SQLite, write a fixture `open_backup` too: a function that makes a store of the backup at a path.
A store that can follow a log passes LoggedConformance too. DurabilityConformance and LoggedDurabilityConformance start
real processes on the URL and kill them. The extra `gowork-leader[conformance]` installs
what the classes need.
"""

from gowork.leader.store.conformance.durability import DurabilityConformance, LoggedDurabilityConformance
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
from gowork.leader.store.conformance.logged import HISTORY, LoggedConformance, LoggedFactory
from gowork.leader.store.conformance.suite import StoreConformance

__all__ = [
    "ALL_BYTES",
    "FULL_LANE",
    "FULL_STANDING",
    "HISTORY",
    "DurabilityConformance",
    "LoggedConformance",
    "LoggedDurabilityConformance",
    "LoggedFactory",
    "StoreConformance",
    "StoreFactory",
    "all_unfinished",
    "facts_of",
    "new_task",
    "seqs_of_page",
    "standing",
]
