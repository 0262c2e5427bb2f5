"""Checks payloads before they are sent, by what workers say of their handlers."""

from __future__ import annotations

import click

from gowork.cli.group import Refused
from gowork.cli.output import harmless
from gowork.client import Client, InvalidArgument

#: How many warnings are given, because each line of a file may name another handler.
WARNINGS_MAX = 20


class PayloadChecks:
    """Checks payloads for one command, and warns once of each handler that no worker has."""

    def __init__(self, client: Client) -> None:
        self._client = client
        #: What was warned of.
        self._warned: set[str] = set()

    def check(self, payload: object, handler: str, plugin_version: str = "") -> None:
        """Checks a payload for a handler, of which any version may run it, or those within a range.

        Raises:
            Refused: when the handler does not take the payload.
            InvalidArgument: when the range can't be read.
            CallError: when the leader refused to tell, or could not be reached.
        """
        try:
            warning = self._client.check_payload(payload, handler=handler, plugin_version=plugin_version)
        except InvalidArgument as error:
            if not any(violation.field.startswith("payload") for violation in error.violations):
                # The range is wrong, not the payload.
                raise
            raise Refused(
                harmless(
                    f"the handler {handler!r} does not take this: {error}; see gowork handlers {handler}, or send it "
                    "with --no-check"
                )
            ) from error
        if warning and warning not in self._warned and len(self._warned) < WARNINGS_MAX:
            self._warned.add(warning)
            click.echo(harmless(f"gowork: {warning}"), err=True)
