"""Turns docstrings and comments into Markdown, for the generated pages."""

from __future__ import annotations

import re
import textwrap

#: The heads of the sections of a docstring (Google's style) that become lists.
_SECTION = re.compile(r"^(Args|Arguments|Attributes|Raises|Returns|Yields):(?: (.*))?$")
_ENTRY = re.compile(r"^(\*{0,2}[\w., *|]+?): (.*)$")
#: Characters that mean something in Markdown, outside of code.
_SPECIAL = re.compile(r"([<>*\[\]|$\\])")


def prose(text: str) -> str:
    """Returns plain text as Markdown. What stands in backticks is code."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if place % 2 else _SPECIAL.sub(r"\\\1", piece) for place, piece in enumerate(pieces))


def comment(text: str) -> str:
    """Returns the comment of a proto as Markdown: paragraphs, with its lists."""
    lines = [line[1:] if line.startswith(" ") else line for line in text.splitlines()]
    return docstring("\n".join(lines))


def docstring(text: str) -> str:
    """Returns a docstring as Markdown. Its arguments, errors and the like become lists, indented lines become code."""
    blocks: list[str] = []
    for paragraph in re.split(r"\n\s*\n", textwrap.dedent(text).strip("\n")):
        lines = paragraph.splitlines()
        if not lines:
            continue
        found = _SECTION.match(lines[0])
        if found:
            blocks.append(_section(found[1], found[2] or "", textwrap.dedent("\n".join(lines[1:]))))
        elif all(line.startswith("    ") for line in lines):
            blocks.append("```text\n" + textwrap.dedent(paragraph) + "\n```")
        else:
            blocks.append("\n".join(prose(line.strip()) for line in lines))
    return "\n\n".join(blocks)


def _section(title: str, first: str, rest: str) -> str:
    entries: list[str] = []
    for line in [first, *rest.splitlines()]:
        found = None if line.startswith(" ") else _ENTRY.match(line)
        if found and title not in ("Returns", "Yields"):
            entries.append(f"- `{found[1]}`: {prose(found[2])}")
        elif line.strip() and entries:
            entries[-1] += " " + prose(line.strip())
        elif line.strip():
            entries.append(prose(line.strip()))
    return f"**{title}**\n\n" + "\n".join(entries)
