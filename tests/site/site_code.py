"""Reads the code of pages: blocks with their language, whether a page says that one is not run, and code in text."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n+)?^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
#: Lines with four blanks before them, or six in a list, after an empty line.
_INDENTED = re.compile(r"(?<=\n\n)((?: {4,8}(?![-|] )\S[^\n]*\n)(?: {4}[^\n]*\n)*)", re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    text: str
    #: Why it is not run; empty where it is.
    not_run: str = ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a block of shell. What follows a pipe is a command, too."""
        lines = self.text.replace("\\\n", "").splitlines()
        found = [part for line in lines for part in re.split(r" (?:\|\|?|&&|>>?) ", line)]
        return [words for line in found if (words := _words(line))]


def _words(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        # A quoted text goes on in the next line, or was cut at a pipe within it.
        return []
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if any(word.count("(") != word.count(")") for word in words):
        # The rest of a command within another.
        return []
    return [word for word in words if word != "&"]


def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    return [
        Block(found["language"], textwrap.dedent(found["text"]), found["why"] or "")
        for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def other_code(page: Path) -> tuple[list[Block], list[Block]]:
    """The code of a page that has no language: blocks that are indented, and what stands in a line of text."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    indented = [Block("", textwrap.dedent(found[1])) for found in _INDENTED.finditer(text)]
    return indented, [Block("", " ".join(found.split())) for found in _SPAN.findall(_INDENTED.sub("", text))]
