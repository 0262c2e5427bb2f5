"""The command `gowork docs` opens the documentation of the installed version."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path

import click

from gowork.cli import manual
from gowork.cli._version import __version__
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, plain, table, write_record, write_records

#: What the error says on a machine without a browser, which may have no network either.
_WITHOUT_NETWORK = ". --path DIR, or GOWORK_DOCS=DIR, takes a built site instead, which needs no network"


@click.command(
    short_help="Open the documentation of this version.",
    epilog="""\b
Examples:
  gowork docs                             # the first page
  gowork docs tutorial
  gowork docs operating#upgrade           # a section of a page
  gowork docs gowork.client --print       # prints the address, and opens nothing
  gowork docs glossary --path build/site  # without network: a site that `nox -s docs` has built
  gowork docs --list

\b
GOWORK_DOCS names the site of all versions, or a folder with a built site.""",
)
@click.argument("page", required=False)
@click.option("--print", "is_printed", is_flag=True, help="Print the page's address, and open nothing.")
@click.option("--list", "is_list", is_flag=True, help="List the pages.")
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="A folder with a built site, of this version or of several.  [default: GOWORK_DOCS, else the site on the web]",
)
@common_options
@pass_common
def docs(common: CommonOptions, page: str | None, path: Path | None, *, is_printed: bool, is_list: bool) -> None:
    """Open PAGE of the documentation of the installed version in a browser.

    With `-o json` its address is printed, and nothing is opened.
    """
    site = str(path) if path is not None else os.environ.get("GOWORK_DOCS") or manual.SITE
    if is_list:
        if page is not None:
            raise click.UsageError("give PAGE or --list, not both")
        _list(site, common.output)
        return
    url = manual.address(page or manual.INDEX, site)
    if common.output is not OutputFormat.TABLE:
        write_record({"version": __version__, "page": page or manual.INDEX, "url": url}, common.output)
    elif is_printed:
        click.echo(url)
    elif not webbrowser.open(url):
        elsewhere = "" if path is not None else _WITHOUT_NETWORK
        raise click.ClickException(f"no browser could be opened; the page is at {url}{elsewhere}")


def _list(site: str, output: OutputFormat) -> None:
    found = [{"version": __version__, "page": page, "url": manual.address(page, site)} for page in manual.PAGES]
    if output is not OutputFormat.TABLE:
        write_records(found, output)
        return
    rows = table("PAGE", "ADDRESS")
    for record in found:
        rows.add_row(plain(record["page"]), plain(record["url"]))
    console().print(rows)
