"""Runs the leader's command with a lease of another length: `python fault_leader.py SECONDS OPTIONS…`."""

from __future__ import annotations

import functools
import sys

from gowork.leader._app import command
from gowork.leader._app.leader import Leader
from gowork.leader._core.state import Settings

if __name__ == "__main__":
    command.Leader = functools.partial(  # type: ignore[assignment,misc]
        Leader, settings=Settings(lease=float(sys.argv.pop(1)))
    )
    command.main()
