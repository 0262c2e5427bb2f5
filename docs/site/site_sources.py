"""Makes a page of each file of the repository that pages link to, so that a reader needs no network for it.

A folder that is linked to becomes a list of its files. What is too long to be read, or no text, stays a link to the
repository.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

#: How long a file may be that gets a page, in bytes. Longer ones are made by programs, such as dashboards.
SOURCE_BYTES_MAX = 64 * 1024
#: Folders that are none of the repository's.
_MADE = re.compile(r"(^|/)(\.|__pycache__|node_modules)")
#: {ending of a file's name, or its whole name: the language that Sphinx colours it as}.
_LANGUAGES = {
    ".conf": "nginx", ".css": "css", ".Dockerfile": "docker", ".js": "javascript", ".json": "json",
    ".proto": "protobuf", ".py": "python", ".service": "ini", ".sh": "sh", ".toml": "toml", ".yaml": "yaml",
}  # fmt: skip


def page_of(path: str) -> str:
    """The path of the page that shows a file or folder, whose path in the repository is given."""
    return f"sources/{path}.md"


def pages(root: Path, linked: Iterable[str], repository: str) -> dict[str, str]:
    """The pages of files and folders, and of the files in these folders: {path of the page: text}.

    Args:
        root: the repository.
        linked: paths in it to which pages link.
        repository: its address.
    """
    found: dict[str, str] = {}
    for path in linked:
        if not (root / path).is_dir():
            found |= _file(root, path, repository)
            continue
        inside = sorted(str(each.relative_to(root)) for each in (root / path).rglob("*") if each.is_file())
        shown = [file for each in inside if not _MADE.search(each) for file in _file(root, each, repository).items()]
        if shown:
            found |= dict(shown)
            rows = [f"- [{page.removeprefix('sources/').removesuffix('.md')}]({_up(path)}{page})" for page, _ in shown]
            found[page_of(path)] = _page(root, path, repository, "\n".join(rows))
    return found


def _file(root: Path, path: str, repository: str) -> dict[str, str]:
    data = (root / path).read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {}
    if len(data) > SOURCE_BYTES_MAX or not text.strip():
        return {}
    shown = _notebook(text) if path.endswith(".ipynb") else _block(text, _language(path))
    return {page_of(path): _page(root, path, repository, shown)}


def _page(root: Path, path: str, repository: str, body: str) -> str:
    kind = "tree" if (root / path).is_dir() else "blob"
    address = f"{repository}/{kind}/main/{path}"
    # The navigation would be too long with these pages. Other pages lead to them.
    return f"---\norphan: true\n---\n\n# {path}\n\nIt is [in the repository]({address}), too.\n\n{body}\n"


def _language(path: str) -> str:
    return next((language for end, language in _LANGUAGES.items() if path.endswith(end)), "text")


def _block(text: str, language: str) -> str:
    fence = "`" * max([3, *(len(found) + 1 for found in re.findall(r"`{3,}", text))])
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _notebook(text: str) -> str:
    """The cells of a notebook, in order."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(_block(source, "python" if kind == "code" else "text") for kind, source in cells)


def _up(path: str) -> str:
    return "../" * page_of(path).count("/")
