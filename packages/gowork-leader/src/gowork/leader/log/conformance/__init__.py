"""What every log must do, as pytest classes. The protocol says the same in words.

A log's own tests subclass LogConformance, and say how logs at one place are made:

    class TestEtcdLog(LogConformance):
        @pytest.fixture
        def make_log(self, etcd):
            url = f"etcd://{etcd.address}/{uuid4()}"
            return lambda: etcd_log(url)

Each log that `make_log` makes stands for a process. A fixture `silence` is a function that keeps the keepalives of one
of these logs from arriving, and `lease_seconds` is how long a leadership lasts without them. The extra
`gowork-leader[conformance]` installs what the class needs.
"""

from gowork.leader.log.conformance.kit import (
    FIRST,
    Fixtures,
    LogFactory,
    Opener,
    Silence,
    candidate,
    follow,
    lead,
    lead_in_time,
)
from gowork.leader.log.conformance.suite import LogConformance

__all__ = [
    "FIRST",
    "Fixtures",
    "LogConformance",
    "LogFactory",
    "Opener",
    "Silence",
    "candidate",
    "follow",
    "lead",
    "lead_in_time",
]
