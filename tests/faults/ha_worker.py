"""Runs the worker's command deaf to hints, which would lead it past its links: `python ha_worker.py …`."""

from __future__ import annotations

from gowork.worker._app import command
from gowork.worker._session import connector

if __name__ == "__main__":
    connector.hint_of = lambda called, *metadata: ""
    command.main()
