"""The console script `gowork-leader`."""

from __future__ import annotations

from gowork_namespace import exit_if_foreign
from gowork_namespace.interrupts import end_on_interrupt, ending_on_interrupt


def main() -> None:
    """Runs the command, where `gowork` is this project's."""
    with ending_on_interrupt():
        exit_if_foreign("gowork-leader")
        from gowork.leader.app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
