"""The console script `gowork-leader`."""

from __future__ import annotations

from gowork_namespace import exit_if_foreign


def main() -> None:
    """Runs the command, where `gowork` is this project's."""
    exit_if_foreign("gowork-leader")
    from gowork.rpc.beginnings import end_on_interrupt, ending_on_interrupt

    with ending_on_interrupt():
        from gowork.leader.app.command import main as command
    try:
        command()
    finally:
        end_on_interrupt()
