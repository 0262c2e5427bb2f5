"""Builds the site: `nox -s docs` calls it, with the folder to write to."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import site_api
import site_commands
import site_links
import site_pages
import site_rpcs
from packaging.version import InvalidVersion, Version


def generated() -> dict[str, str]:
    """The generated pages of the reference: {path: text}.

    Raises:
        ValueError: the code has what the site would not describe.
    """
    return {
        "reference/commands.md": site_commands.commands_page(),
        "reference/configuration.md": site_commands.configuration_page(),
        "reference/errors.md": site_rpcs.errors_page(),
        **site_api.pages(),
        **site_rpcs.pages(),
    }


def build(site: Path, *options: str) -> list[str]:
    """Builds the site into a folder, which is emptied before.

    Args:
        site: the folder.
        options: more of Sphinx's options.

    Returns:
        What is wrong with it, a line each.
    """
    shutil.rmtree(site, ignore_errors=True)
    with tempfile.TemporaryDirectory() as sources:
        site_pages.lay_out(Path(sources), generated())
        strict = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(site_pages.HERE), *options]
        sphinx = subprocess.run([sys.executable, "-m", "sphinx", *strict, sources, str(site)], check=False)
    if sphinx.returncode:
        return ["Sphinx has warned, or failed"]
    return []


def check(site: Path) -> list[str]:
    """Checks a built site, and writes down its links to other sites. Returns what is wrong with it, a line each."""
    wrong, others = site_links.check(site)
    (site / "external-links.txt").write_text("".join(f"{link}\n" for link in others), encoding="utf-8")
    return wrong


def list_versions(folder: Path) -> None:
    """Writes what the sites of all versions in a folder share: a page that lists them, and a list for each page.

    The list is read by the selector on each page, as a script, because a browser reads no JSON from a file. Sites that
    were built before read it too, so they offer versions that are newer than themselves.
    """
    versions = sorted((path.parent for path in folder.glob("*/index.html") if _is_version(path.parent)), key=_version)
    known = [
        {"version": site.name, "pages": sorted(str(page.relative_to(site)) for page in site.rglob("*.html"))}
        for site in reversed(versions)
    ]
    text = json.dumps(known, separators=(",", ":"))
    (folder / "versions.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "versions.js").write_text(f"window.goworkVersions = {text};\n", encoding="utf-8")
    rows = "".join(f'<li><a href="{site.name}/index.html">gowork {site.name}</a></li>' for site in reversed(versions))
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    (folder / "index.html").write_text(
        f"{head}<title>gowork</title><h1>Versions</h1><ul>{rows}</ul>\n", encoding="utf-8"
    )


def _is_version(folder: Path) -> bool:
    try:
        _version(folder)
    except InvalidVersion:
        return False
    return True


def _version(folder: Path) -> Version:
    return Version(folder.name)


def main() -> None:
    """Builds the site, and ends with 1 when anything is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("folder", nargs="?", type=Path, help="where the site is written; what is there goes")
    where.add_argument("--versions", type=Path, help="a folder with one of each version; this version is written anew")
    arguments = parser.parse_args()
    if arguments.versions is None:
        site = arguments.folder.resolve()
        wrong = build(site)
    else:
        site = arguments.versions.resolve() / site_pages.version()
        wrong = build(site, "-A", "has_versions=1", "-D", "html_static_path=static,selector")
        list_versions(site.parent)
    wrong = wrong or check(site)
    print("\n".join(wrong) or f"the site: {site}/index.html")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
