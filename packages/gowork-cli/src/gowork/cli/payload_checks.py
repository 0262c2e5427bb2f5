"""Checks payloads before they are sent, by what workers say of their handlers."""

from __future__ import annotations

import click

from gowork.cli.output import harmless
from gowork.client import Client, InvalidArgument

#: How many handlers that no worker has are warned of, because each line of a file may name another one.
WARNINGS_MAX = 20


class PayloadChecks:
    """Checks payloads for one command, and warns once of each handler that no worker has."""

    def __init__(self, client: Client) -> None:
        self._client = client
        #: The handlers that were warned of.
        self._warned: set[str] = set()

    def check(self, payload: object, handler: str) -> None:
        """Checks a payload.

        Raises:
            click.ClickException: when the handler does not take the payload.
            CallError: when the leader refused to tell, or could not be reached.
        """
        try:
            warning = self._client.check_payload(payload, handler=handler)
        except InvalidArgument as error:
            raise click.ClickException(
                f"the handler {handler!r} does not take this: {error}; see gowork handlers {handler}, or send it with "
                "--no-check"
            ) from error
        if warning and handler not in self._warned and len(self._warned) < WARNINGS_MAX:
            self._warned.add(handler)
            click.echo(harmless(f"gowork: {warning}"), err=True)
