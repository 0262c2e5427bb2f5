"""The leader's command with a lease of another length: `python fault_leader.py SECONDS OPTIONS…`."""

from __future__ import annotations

import functools
import sys

from gowork.leader.app import command
from gowork.leader.app.leader import Leader
from gowork.leader.core.state import Settings

if __name__ == "__main__":
    command.Leader = functools.partial(  # type: ignore[assignment,misc]
        Leader, settings=Settings(lease=float(sys.argv.pop(1)))
    )
    command.main()
