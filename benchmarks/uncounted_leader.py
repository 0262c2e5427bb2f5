"""A leader that counts nothing for its metrics, to measure the cost of metrics against.

It still notes what a batch does, by an append for each transition, but throws the notes away.
"""

from __future__ import annotations

from gowork.leader._app import leader
from gowork.leader._app.command import main
from gowork.leader._core.tally import Tally
from gowork.leader._engine.counts import Counts


class Uncounted(Counts):
    """Counts nothing."""

    def applied(self, tally: Tally) -> None:
        """Does nothing."""

    def called(self, method: str, code: str, seconds: float, trace_id: str = "") -> None:
        """Does nothing."""


if __name__ == "__main__":
    leader.Counts = Uncounted  # type: ignore[misc]
    main()
