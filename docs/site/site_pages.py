"""Which pages the site has, and how they are laid out for Sphinx.

`nav.toml` names all of them, in order. Each keeps its path in the repository, so that its links stay right. Files and
folders to which they link, such as configurations, get pages of their own.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import site_sources

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "docs/site"
#: What a link in Markdown leads to: [text](target).
_LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
_PICTURES = "docs/pictures/"
#: A drawing of states in Mermaid.
_STATES = re.compile(r"^```mermaid\nstateDiagram-v2\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
#: The names of pages that a folder is read by, when a link leads to it.
_INDEX = "README.md"


@dataclass(frozen=True)
class Part:
    """A part of the navigation."""

    title: str
    #: The paths of its pages, from the repository's root, in order. Those of `reference/` are generated.
    pages: tuple[str, ...]


def parts(generated: Iterable[str] = ()) -> list[Part]:
    """The parts that `nav.toml` has. A page with a star stands for all that match it and are not named themselves.

    Args:
        generated: the paths of the generated pages.
    """
    made = frozenset(generated)
    listed = tomllib.loads((HERE / "nav.toml").read_text(encoding="utf-8"))["part"]
    named = {page for part in listed for page in part["pages"]}
    return [
        Part(part["title"], tuple(page for pattern in part["pages"] for page in _matching(pattern, named, made)))
        for part in listed
    ]


def _matching(pattern: str, named: set[str], generated: frozenset[str]) -> list[str]:
    if "*" not in pattern:
        return [pattern]
    committed = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
    return sorted((committed | {page for page in generated if fnmatch(page, pattern)}) - named)


def repository() -> str:
    """The address of the repository, where the root pyproject.toml has it."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return str(tool["gowork"]["repository"])


def version() -> str:
    """The version of the site: that of the command line, whose minor version all packages share."""
    project = tomllib.loads((ROOT / "packages/gowork-cli/pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def lay_out(folder: Path, generated: Mapping[str, str]) -> None:
    """Writes the sources of the site into an empty folder.

    Args:
        folder: where to.
        generated: {path of a generated page: its text}.

    Raises:
        ValueError: nav.toml names a page that is not there, or a generated page is in no part of it.
    """
    known = [page for part in parts(generated) for page in part.pages]
    committed = [page for page in known if page not in generated]
    if missing := [page for page in committed if not (ROOT / page).is_file()]:
        raise ValueError(f"docs/site/nav.toml names pages that are not there: {', '.join(missing)}")
    if unnamed := sorted(set(generated) - set(known)):
        raise ValueError(f"docs/site/nav.toml names no part for the generated pages {', '.join(unnamed)}")
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in committed}
    sources = site_sources.pages(ROOT, sorted(_linked_paths(texts) - set(known)), repository())
    for page, text in texts.items():
        _write(folder / page, linked(titled(text, page), page, frozenset(known) | sources.keys()))
    for page, text in (dict(generated) | sources).items():
        _write(folder / page, text)
    shutil.copytree(ROOT / "docs/pictures", folder / "docs/pictures", ignore=shutil.ignore_patterns("*.py", "__*"))
    _write(folder / "index.md", index(generated))


def titled(text: str, page: str) -> str:
    """Returns a page's text with a title that no other page has: a changelog's names its package."""
    return re.sub(r"\A# Changelog\n", f"# Changelog of {Path(page).parent.name}\n", text)


def index(generated: Iterable[str]) -> str:
    """The first page: what the site is, and all parts of the navigation, with these generated pages."""
    text = (HERE / "index.md.in").read_text(encoding="utf-8")
    trees = [
        f"```{{toctree}}\n:caption: {part.title}\n:maxdepth: 1\n\n" + "\n".join(part.pages) + "\n```\n"
        for part in parts(generated)
    ]
    return text + "\n" + "\n".join(trees)


def linked(text: str, page: str, known: frozenset[str]) -> str:
    """Returns a page's text with its links as the site needs them.

    Args:
        text: the page.
        page: its path in the repository.
        known: the paths of all pages of the site.
    """
    lines = []
    for line, is_code in fenced(_STATES.sub(lambda found: _changes(found[1]), text)):
        # Mermaid's program comes from another site, so its drawings stay text, which is written to be read.
        line = line.replace("```mermaid", "```text") if is_code else line
        lines.append(line if is_code else _LINK.sub(lambda found: _target(found[1], page, known), line))
    return "\n".join(lines) + "\n"


def _changes(drawing: str) -> str:
    """A drawing of states as a table: which state follows which, and when."""
    rows = re.findall(r"^ *(\S+) --> ([^:\s]+): (.+)$", drawing, re.MULTILINE)
    return "| from | to | when |\n|---|---|---|\n" + "".join(
        f"| {'(new)' if before == '[*]' else before} | {'(removed)' if after == '[*]' else after} | {when} |\n"
        for before, after, when in rows
    )


def fenced(text: str) -> Iterator[tuple[str, bool]]:
    """The lines of a page: (line, whether it belongs to a block of code)."""
    fence = ""
    for line in text.splitlines():
        opening = re.match(r" *(`{3,})", line)
        if opening and not fence:
            fence = opening[1]
            yield line, True
        elif fence and line.strip() == fence:
            fence = ""
            yield line, True
        else:
            yield line, bool(fence)


def _linked_paths(texts: Mapping[str, str]) -> set[str]:
    """What pages link to in the repository: paths of files and folders."""
    found = {
        place[0]
        for page, text in texts.items()
        for line, is_code in fenced(text)
        for target in (() if is_code else _LINK.findall(line))
        if (place := _place(target, page))
    }
    return {path for path in found if (ROOT / path).exists() and not path.startswith(_PICTURES)}


def _place(target: str, page: str) -> tuple[str, str] | None:
    """The path in the repository to which a link leads, and the place in it; None where it leads elsewhere."""
    own = tuple(f"{repository()}/{kind}/main/" for kind in ("blob", "tree", "raw"))
    if target.startswith(own):
        path, _, anchor = target.partition("/main/")[2].partition("#")
    elif re.match(r"[a-z]+:|#", target):
        return None
    else:
        relative, _, anchor = target.partition("#")
        path = str((ROOT / page).parent.joinpath(relative).resolve().relative_to(ROOT))
    return path.rstrip("/"), anchor


def _target(target: str, page: str, known: frozenset[str]) -> str:
    place = _place(target, page)
    if place is None:
        return target
    path, anchor = place
    behind = f"#{anchor}" if anchor else ""
    if (ROOT / path).is_dir() and f"{path}/{_INDEX}" in known:
        path = f"{path}/{_INDEX}"
    if path in known or path.startswith(_PICTURES):
        return _relative(path, page) + behind
    if site_sources.page_of(path) in known:
        return _relative(site_sources.page_of(path), page)
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    return f"{repository()}/{kind}/main/{path}{behind}"


def _relative(path: str, page: str) -> str:
    return "../" * page.count("/") + path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
