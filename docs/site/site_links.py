"""Checks the links of the built site: each leads to a page and a place that are there. Lists those to other sites."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Pages that Sphinx makes itself, without text of ours.
_SPHINX = frozenset({"genindex.html", "search.html"})


class _Page(HTMLParser):
    """The links of a page, what it loads, and the places in it that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if name := found.get("id"):
            self.places.add(name)
        if tag == "a" and (link := found.get("href")):
            self.links.append(link)
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(found.get("href") or "")
        elif source := found.get("src"):
            self.loaded.append(source)


def check(site: Path) -> tuple[list[str], list[str]]:
    """Looks at all pages of a built site.

    Returns:
        What is wrong, a line each, and the addresses of other sites to which pages link.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong: list[str] = []
    others: set[str] = set()
    for path, page in pages.items():
        name = str(path.relative_to(site))
        wrong += [f"{name}: loads {source} from elsewhere" for source in page.loaded if urlsplit(source).netloc]
        for link in page.links if name not in _SPHINX else ():
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                others.add(link)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                wrong.append(f"{name}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                wrong.append(f"{name}: {link} leads to a place that is not there")
    return wrong, sorted(others)
