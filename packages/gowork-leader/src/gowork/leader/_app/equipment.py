"""What all terms of a leader's process have in common. It is made once, when the process starts."""

from __future__ import annotations

from msgspec import Struct

from gowork.base.tls import Tls
from gowork.leader._access.access import Access
from gowork.leader._core.state import Settings
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.retention import Kept
from gowork.leader._rpc.dialer import Dialer


class Equipment(Struct, frozen=True):
    """What a term needs besides a store."""

    #: Counts what happens. It goes on from term to term.
    counts: Counts
    #: Spans and bounds.
    settings: Settings
    #: How many finished tasks are kept, and for how long.
    kept: Kept
    #: What the cluster is called in metrics of CloudWatch; empty: there are none.
    cloudwatch: str = ""
    #: The certificates with which callback workers and other leaders are called; None: plain text.
    tls: Tls | None = None
    #: The name that callback workers' certificates have; empty: the host of their address.
    tls_worker_name: str = ""
    #: Says who may do what; None: everybody may do everything.
    access: Access | None = None

    def dialer(self) -> Dialer:
        """Returns what calls callback workers in one term."""
        return Dialer(self.tls, self.tls_worker_name)
