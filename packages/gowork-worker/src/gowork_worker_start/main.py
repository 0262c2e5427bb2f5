"""The console script `gowork-worker`."""

from __future__ import annotations

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import end_on_interrupt, ending_on_interrupt


def main() -> None:
    """Runs the command. Exits with a message when another project has taken the name `gowork`."""
    with ending_on_interrupt():
        exit_if_foreign("gowork-worker")
        from gowork.worker._app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
