"""An index of packages: where it takes uploads, and what it has.

It reads the simple API (PEP 503, and PEP 691 where the index speaks it).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

import packaging.utils
from packaging.version import Version
from release_papers import ReleaseError

#: How long an index may take to answer, in seconds, and how long its page of a package may be, in bytes.
_ANSWER_SECONDS_MAX = 60.0
_PAGE_BYTES_MAX = 64 << 20
_JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True)
class Index:
    """An index of packages."""

    #: Where it takes uploads.
    upload_url: str
    #: The beginning of its pages of packages.
    simple_url: str
    #: uv's arguments that say who uploads. By default GitHub says so: a trusted publisher has no password.
    credentials: tuple[str, ...] = ("--trusted-publishing", "always")

    def digests(self, name: str) -> dict[str, str]:
        """The files that it has of a package: {file: its SHA-256}.

        Raises:
            ReleaseError: it does not answer, or a file has no such digest.
        """
        url = f"{self.simple_url.rstrip('/')}/{packaging.utils.canonicalize_name(name)}/"
        request = urllib.request.Request(url, headers={"Accept": f"{_JSON}, text/html;q=0.5"})
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS_MAX) as answer:
                page, kind = answer.read(_PAGE_BYTES_MAX + 1), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return {}
            raise ReleaseError(f"{url} answers {error.code} {error.reason}; try again when it answers") from error
        except OSError as error:
            raise ReleaseError(f"{url} does not answer: {error}; try again when it does") from error
        if len(page) > _PAGE_BYTES_MAX:
            raise ReleaseError(f"{url} has more than {_PAGE_BYTES_MAX} bytes; is it the page of a package?")
        found = dict(_of_json(page) if kind == _JSON else _of_html(page))
        unknown = sorted(file for file, told in found.items() if not told)
        if unknown:
            raise ReleaseError(f"{url} gives no SHA-256 of {', '.join(unknown)}; nothing can be compared with it")
        return found

    def versions(self, name: str) -> set[Version]:
        """The versions of a package of which it has a wheel."""
        wheels = (file for file in self.digests(name) if file.endswith(".whl"))
        return {packaging.utils.parse_wheel_filename(wheel)[1] for wheel in wheels}


def _of_json(page: bytes) -> Iterator[tuple[str, str]]:
    for file in json.loads(page)["files"]:
        yield file["filename"], file["hashes"].get("sha256", "")


def _of_html(page: bytes) -> Iterator[tuple[str, str]]:
    links = _Links()
    links.feed(page.decode("utf-8", errors="replace"))
    for link in links.found:
        parts = urllib.parse.urlsplit(link)
        told = urllib.parse.parse_qs(parts.fragment).get("sha256", [""])[0]
        yield urllib.parse.unquote(parts.path.rpartition("/")[2]), told


class _Links(HTMLParser):
    """Finds the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [target for name, target in attrs if tag == "a" and name == "href" and target]
