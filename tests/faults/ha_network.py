"""How leaders, workers and the servers of the log reach one another, and how that is cut.

Either all of them run here and reach one another through proxies of the tests, which needs no rights, or each has a
network namespace of its own; see ha_namespaces.py. The tests' own clients reach everything directly.
"""

from __future__ import annotations

import contextlib
from typing import Protocol

from etcd_members import Machine
from fault_link import Link

#: The machine of the workers that can be cut off, and that of the tests' clients and of all other workers.
WORKERS = "workers"
CLIENTS = "clients"


class Network(Protocol):
    """Where processes run, and what of their traffic is cut."""

    #: Whether a whole machine can go away without a word.
    loses_machines: bool

    def machine(self, name: str) -> Machine:
        """Returns where the process of this name runs."""
        ...

    def path(self, source: str, target: str, address: str) -> str:
        """Returns where the processes of `source` find what `target` serves, as HOST:PORT or the path of a socket."""
        ...

    def cut(self, source: str, target: str, *ways: str) -> None:
        """Drops what `source` sends to `target` ("up"), what comes back ("down"), or both. Nobody gets an error."""
        ...

    def heal(self, source: str, target: str) -> None:
        """Undoes `cut`."""
        ...

    def lose(self, name: str) -> None:
        """Takes a machine off the network. Harmless when repeated."""
        ...

    def find(self, name: str) -> None:
        """Undoes `lose`."""
        ...


class LinkedNetwork:
    """All run on loopback. What may be cut goes through links."""

    loses_machines = False

    def __init__(self, links: contextlib.ExitStack) -> None:
        """`links` ends the links."""
        self._open = links
        self._links: dict[tuple[str, str], Link] = {}

    def machine(self, name: str) -> Machine:
        """See Network."""
        return Machine("127.0.0.1")

    def path(self, source: str, target: str, address: str) -> str:
        """See Network."""
        if (source, target) not in self._links:
            self._links[source, target] = self._open.enter_context(Link(address))
        return self._links[source, target].address

    def cut(self, source: str, target: str, *ways: str) -> None:
        """See Network."""
        self._links[source, target].cut(*ways)

    def heal(self, source: str, target: str) -> None:
        """See Network."""
        self._links[source, target].heal()

    def lose(self, name: str) -> None:
        """See Network. It can't be done."""
        raise NotImplementedError(name)

    find = lose
