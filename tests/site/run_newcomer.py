"""Does what the tutorial of the built site says, as a reader does who has no checkout: `nox -s newcomer` calls it.

The code comes from the page in HTML, the packages from a folder of wheels, and pip asks no index. Whatever differs from
the page, or is missing from it, ends this with an error.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path

from site_code import Block
from site_scripts import SERVED, script
from test_e2e_readme import run

#: How long all of it may take, in seconds.
TUTORIAL_SECONDS = 600.0
_NOT_RUN = "not run: "


class _Page(HTMLParser):
    """The blocks of code of a page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.blocks: list[Block] = []
        self._language = ""
        self._not_run = ""
        self._text: list[str] | None = None
        self.feed(text)

    def handle_comment(self, data: str) -> None:
        if data.strip().startswith(_NOT_RUN):
            self._not_run = data.strip().removeprefix(_NOT_RUN)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = re.match(r"highlight-(\w+) ", dict(attributes).get("class") or "")
        if found:
            self._language = found[1]
        elif tag == "pre":
            self._text = []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" and self._text is not None:
            self.blocks.append(Block(self._language, "".join(self._text), self._not_run))
            self._text, self._not_run = None, ""


def html_blocks(page: Path) -> list[Block]:
    """The blocks of code of a page in HTML, in order."""
    return _Page(page.read_text(encoding="utf-8")).blocks


def programs(folder: Path) -> str:
    """PATH of a reader: this Python, as python3, and what the machine has; nothing of this environment."""
    folder.mkdir()
    (folder / "python3").symlink_to(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    own = {str(Path(sys.executable).parent), str(Path(sys.prefix) / "bin")}
    return os.pathsep.join([str(folder), *(part for part in os.environ["PATH"].split(os.pathsep) if part not in own)])


def main() -> None:
    """Does the tutorial, and says how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="the built site")
    parser.add_argument("wheels", type=Path, help="the wheels of all packages")
    parser.add_argument("others", type=Path, help="the wheels of what they need, with hatchling and pytest")
    arguments = parser.parse_args()
    began = time.monotonic()
    blocks = html_blocks(arguments.site / "docs/tutorial.html")
    if [block.language for block in blocks].count("sh") < 2:
        raise SystemExit("the tutorial of the site has no commands")
    with tempfile.TemporaryDirectory() as temporary:
        path = programs(Path(temporary, "programs"))
        folder = Path(temporary, "empty")
        folder.mkdir()
        shutil.copytree(arguments.wheels, folder / "wheels")
        others = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={arguments.others.resolve()}"
        alone = f"unset PYTHONPATH VIRTUAL_ENV\nexport PATH='{path}' {others}"
        out = run(f"{alone}\n{script(blocks, {})}", folder, TUTORIAL_SECONDS)
    wrong = [served for served in SERVED if served not in out]
    wrong += [] if "3 passed" in out else ["3 passed"]
    if wrong:
        raise SystemExit(f"{out}\nmissing from this: {', '.join(wrong)}")
    print(f"the tutorial went as written, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
