"""Knows where the pages of the documentation are: on the site of this version, or in a folder with a built site.

The site has a folder for each version, so a page's address is SITE/VERSION/PAGE.html.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

import click

from gowork.base.suggestions import meant
from gowork.cli._version import __version__

#: Where the documentation of all versions is, unless GOWORK_DOCS says otherwise.
SITE = "https://gowork.github.io/gowork"
#: How many versions an error names.
_NAMED_MAX = 10
#: The page that leads to all others.
INDEX = "index"
#: The pages, without their ending. The last part of a path is the page's name; a README has that of its folder.
_PATHS = (
    "docs/tutorial", "docs/how-do-i", "docs/comparison", "docs/coming-from", "docs/support", "docs/retries",
    "docs/testing", "docs/schedules", "docs/dependencies", "docs/groups",
    "docs/upgrade-0.2", "docs/django", "docs/fastapi",
    "docs/machines", "docs/high-availability", "docs/operating", "docs/containers", "docs/ecs", "docs/access",
    "docs/tls", "docs/proxies", "docs/encryption", "docs/logs", "docs/tracing", "docs/runbook",
    "docs/changing-payloads", "docs/embedding", "docs/hooks", "docs/isolation", "docs/metrics", "docs/protocol",
    "docs/reliability", "docs/releases",
    "docs/performance", "docs/benchmarks", "docs/glossary", "docs/decisions/README", "deploy/README",
    "reference/commands", "reference/configuration", "reference/errors",
    "reference/rpcs/scheduler", "reference/rpcs/leader", "reference/rpcs/session", "reference/rpcs/worker",
    "reference/api/gowork.client", "reference/api/gowork.client.frames", "reference/api/gowork.worker",
    "reference/api/gowork.worker.testing", "reference/api/gowork.worker.processes", "reference/api/gowork.testing",
    "reference/api/gowork.leader", "reference/api/gowork.leader.store", "reference/api/gowork.leader.store.registry",
    "reference/api/gowork.leader.store.conformance", "reference/api/gowork.leader.log",
    "reference/api/gowork.leader.log.registry", "reference/api/gowork.leader.log.conformance",
    "reference/api/gowork.proto.limits", "reference/api/gowork.proto.status",
    "packages/gowork-worker/README", "packages/gowork-client/README", "packages/gowork-cli/README",
    "packages/gowork-leader/README", "packages/gowork-testing/README", "packages/gowork-proto/README",
    "packages/gowork-base/README", "packages/gowork-all/README", "plugins/gowork-plugin-container/README",
    "plugins/gowork-plugin-http/README",
    "plugins/gowork-plugin-python/README", "plugins/gowork-plugin-shell/README", "examples/node-worker/README",
    "ARCHITECTURE", "CONTRIBUTING", "SECURITY",
)  # fmt: skip
#: {name of a page: its path in the site, without its ending}.
PAGES = {INDEX: INDEX} | {path.removesuffix("/README").rpartition("/")[2].lower(): path for path in _PATHS}


def page_path(page: str) -> tuple[str, str]:
    """Returns the path of a page in the site and the place in it, which is empty without a `#`.

    Raises:
        click.UsageError: there is no page of that name.
    """
    name, _, place = page.partition("#")
    known = (name or INDEX).lower().removesuffix(".md").removesuffix(".html").rpartition("/")[2]
    if known not in PAGES:
        raise click.UsageError(f"no page {name!r}{meant(known, PAGES)}; gowork docs --list names all pages")
    return f"{PAGES[known]}.html", place


def address(page: str, site: str) -> str:
    """Returns the address of a page of this version.

    Args:
        page: the page's name, with `#` and a place if wanted.
        site: the address of the site of all versions, or a folder with a built site.

    Raises:
        click.UsageError: there is no such page, or `site` is neither an address nor a folder with the site.
    """
    path, place = page_path(page)
    behind = f"#{quote(place)}" if place else ""
    if "://" not in site:
        return _local(Path(site), path).as_uri() + behind
    if not _is_site(site):
        raise click.UsageError(
            f"the site's address {site!r} must be a folder, or begin with http:// or https:// and a host without ? or #"
        )
    return f"{site.rstrip('/')}/{__version__}/{path}{behind}"


def _is_site(address: str) -> bool:
    try:
        parts = urlsplit(address)
        # A port that is none is told of only when it is asked for.
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_whole and not parts.query and not parts.fragment


def _local(folder: Path, path: str) -> Path:
    """The file of a page in a folder that has the site of this version, or one such folder for each version."""
    for site in (folder / __version__, folder):
        if (site / path).is_file():
            return (site / path).resolve()
    versions = sorted(each.parent.name for each in folder.glob("*/index.html")) if folder.is_dir() else []
    there = f"; it has {', '.join(versions[:_NAMED_MAX])}" if versions else ""
    raise click.UsageError(f"{folder} has no {path} of version {__version__}{there}; nox -s docs builds the site")
