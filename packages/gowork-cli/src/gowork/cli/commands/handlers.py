"""The command `gowork handlers` lists what the cluster's workers can run, and describes one handler."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from gowork.base.suggestions import meant
from gowork.cli.completions import complete_handler
from gowork.cli.group import EXIT_FAILED
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, harmless, plain, write_record, write_records
from gowork.cli.records import handler_record
from gowork.client import HandlerInfo, HandlerVersion

#: How many fields of a payload, and how many workers, are named.
_FIELDS_NAMED_MAX = 8
_WORKERS_NAMED_MAX = 8


@click.command(
    epilog="""\b
Examples:
  gowork handlers
  gowork handlers resize
  gowork handlers resize -o json | jq '.versions[0].payload_schema'"""
)
@click.argument("name", required=False, shell_complete=complete_handler)
@common_options
@pass_common
def handlers(common: CommonOptions, name: str | None) -> None:
    """List the handlers that workers have now. With a NAME, show what that handler takes and returns.

    A handler has a row for each version of it. In PAYLOAD, fields that may be left out end with a question mark.
    """
    with common.client() as client:
        found = client.handlers(name or "")
        others = [each.name for each in client.handlers()] if name and not found else []
    if name and not found:
        click.echo(harmless(f"gowork: no worker has the handler {name!r} now{meant(name, others)}"), err=True)
        click.get_current_context().exit(EXIT_FAILED)
    if common.output is not OutputFormat.TABLE:
        if name:
            write_record(handler_record(found[0]), common.output)
        else:
            write_records(map(handler_record, found), common.output)
    elif name:
        _print_one(console(), found[0])
    elif not found:
        console().print("no worker with handlers is here; start one with 'gowork worker'")
    else:
        print_rows(console(), ("HANDLER", "PLUGIN", "WORKERS", "PAYLOAD", "DOC"), _rows(found), numbers=("WORKERS",))


def _rows(found: Iterable[HandlerInfo]) -> Iterator[Sequence[Text]]:
    for handler in found:
        for version in handler.versions:
            yield (
                plain(handler.name),
                plain(_plugin(version)),
                plain(str(version.workers)),
                plain(_payload(version)),
                plain(version.doc),
            )


def _print_one(out: Console, handler: HandlerInfo) -> None:
    for version in handler.versions:
        out.print(plain(f"{handler.name}: {version.doc}" if version.doc else handler.name, "bold"))
        if plugin := _plugin(version):
            out.print(plain(f"plugin: {plugin}"))
        names = ", ".join(version.worker_names[:_WORKERS_NAMED_MAX])
        more = version.workers - min(len(version.worker_names), _WORKERS_NAMED_MAX)
        out.print(plain(f"workers: {names}" + (f" and {more} more" if more > 0 else "")))
        out.print(plain(f"payload: {_payload(version)}"))
        for words, schema in (("payload", version.payload_schema), ("result", version.result_schema)):
            if schema is not None:
                click.echo(harmless(f"schema of the {words}:\n{json.dumps(schema, indent=2)}"))
        click.echo()


def _plugin(version: HandlerVersion) -> str:
    return f"{version.plugin} {version.plugin_version}".strip()


def _payload(version: HandlerVersion) -> str:
    """Returns what a handler takes, in a few words."""
    if not version.is_described:
        return "not described"
    if not version.takes_payload:
        return "read by the handler itself"
    schema = version.payload_schema
    words = "anything" if schema is None else _words(schema)
    return f"{words}, or none" if version.payload_optional else words


def _words(schema: Mapping[str, Any]) -> str:
    """Returns the fields of an object, or the type. A schema comes from a worker, and may have any form."""
    reference, parts = schema.get("$ref"), schema.get("$defs")
    if isinstance(reference, str) and isinstance(parts, dict):
        target = parts.get(reference.rpartition("/")[2])
        if isinstance(target, dict):
            schema = target
    fields, needed = schema.get("properties"), schema.get("required")
    if isinstance(fields, dict):
        required = needed if isinstance(needed, list) else []
        names = [name if name in required else f"{name}?" for name in list(fields)[:_FIELDS_NAMED_MAX]]
        return ", ".join(names + ["…"] * (len(fields) > _FIELDS_NAMED_MAX)) or "an object"
    kind = schema.get("type")
    return kind if isinstance(kind, str) else "see its schema"
