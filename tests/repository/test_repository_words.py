"""How the project writes: docstrings begin with a sentence, and phrases that must be read twice are not used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Every page and source that people write, except generated code, this file and its mutants, which quote the phrases.
KEPT = [
    path
    for pattern in (
        "*.*",
        *(f"{folder}/**/*.*" for folder in ("benchmarks", "deploy", "docs", "examples", "p*s", "release", "tests")),
    )
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in {".md", ".proto", ".py", ".toml", ".yaml"}
    and not {"node_modules", "build", "dist"} & set(path.parts)
    and "_pb2" not in path.name
    and path not in {Path(__file__), ROOT / "tests/mutants/words.toml"}
]
CODE = [path for path in KEPT if path.suffix == ".py"]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "lineno", 1), text


def begins_with_a_sentence(docstring: str) -> bool:
    """Whether the first paragraph begins with a capital, or with a name as its subject, and ends as a sentence does."""
    first = " ".join(docstring.partition("\n\n")[0].split())
    return bool(re.match(r"[A-Z(]|`[^`]+`,? [a-z]", first)) and first.endswith((".", "?", ".)"))


def test_every_docstring_begins_with_a_sentence() -> None:
    assert len(CODE) > 300
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0] if text else ''}"
        for path in CODE
        for line, text in docstrings(path)
        if not begins_with_a_sentence(text)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("docstring", "whether"),
    [
        ("Adds a task.\n\nArgs:\n    task: it.", True),
        ("`bounds` are the upper bounds.", True),
        ("adds a task.", False),
        ("Adds a task", False),
        ("`gowork add`.", False),
        ("{id: task} of all.", False),
        ("", False),
    ],
)
def test_what_counts_as_a_sentence(docstring: str, whether: bool) -> None:
    assert begins_with_a_sentence(docstring) is whether


def test_no_file_refers_to_a_document_that_is_not_here() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in KEPT
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\bDESIGN\b", line)
    ]
    assert found == []


#: The pages without the changelogs, where an entry may be one long line.
PROSE = [path for path in KEPT if path.suffix == ".md" and path.name != "CHANGELOG.md"]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that are neither code nor table nor heading: (number, line)."""
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith(("|", "#", "    ")) and not line.lstrip().startswith("|"):
            yield number, line


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_line_of_prose_has_100_columns_or_one_sentence(page: Path) -> None:
    wrong = [
        f"{number}: {line}"
        for number, line in prose_of(page)
        if len(line) > 100 and re.search(r"[.?!] [A-Z]", re.sub(r"`[^`]*`|\([^)]*\)", "", line))
    ]
    assert wrong == []


#: The beginnings of commands, and what joins two of them.
COMMANDS = re.compile(r"(?:^| )(?:python3? -m|(?:pip|go|npm|apt-get) (?:install|ci)) |&& ")


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_stand_in_blocks_where_no_wrapping_joins_them(page: Path) -> None:
    wrong = [f"{number}: {line}" for number, line in prose_of(page) if COMMANDS.search(re.sub(r"`[^`]*`", "", line))]
    assert wrong == []


def test_the_glossary_defines_the_terms_of_the_protocol() -> None:
    defined = re.findall(r"^\| ([a-z -]+) \| (?!means)", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert len(defined) == len(set(defined)), "one term, one meaning"
    assert {
        *("task", "attempt", "lane", "lease", "fence", "session", "grant", "credit", "window", "runner"),
        *("callback worker", "term"),
    } <= set(defined)


#: {pattern of a phrase that is not used: what to write instead}.
TURNS = {
    r"\b[Ss]o many (?!that\b)[a-z]+": "name the quantity: `budget` seconds",
    r", save (?:for|that|the|in|on|what)\b|\b[a-z]+ save (?:for|that|in|on) ": "except",
    r", for (?:it|they|that|this|nobody|nothing|there) (?:is|are|was|were|has|have|had|may|can|would|will|does|do)\b": (
        "because"
    ),
    r"\b(?:of|to|for|by|in|with|from|on|at|over|against|under|after) which (?:no|none|nobody|nothing)\b": (
        "turn the sentence round: the subject first"
    ),
    r"\boriginal kind\b|\b[Cc]allback[_ -]?[Mm]ember|\b[Dd]ialled (?:worker|member)": "callback worker",
    r"\b(?:[Mm]ember|[Ww]orker|[Oo]ne)s? that (?:is|are) dialled": "callback worker, again",
}
#: Records keep the words of their time.
HISTORY = {ROOT / "docs/decisions", *ROOT.glob("p*s/*/CHANGELOG.md")}


@pytest.mark.parametrize("turn", TURNS, ids=TURNS.get)
def test_no_turn_has_to_be_read_twice(turn: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in KEPT
        if not HISTORY & {path, *path.parents}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(turn, line)
    ]
    assert found == [], f"rather: {TURNS[turn]}"


@pytest.mark.parametrize(
    "words",
    [
        "wait at most so many seconds",
        "all members, save for one",
        "the file is kept, for it may be another's",
        "a row of which no process can tell",
        "a dialled worker",
        "CallbackMember",
        "members that are dialled",
    ],
)
def test_the_turns_are_found(words: str) -> None:
    assert sum(1 for turn in TURNS if re.search(turn, words)) == 1


def test_nothing_is_raised_within_except_star() -> None:
    """Python 3.11.2, which Debian 12 has, puts what is raised there into a group: commands end with a traceback."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.TryStar)
        and any(isinstance(inner, ast.Raise) for handler in node.handlers for inner in ast.walk(handler))
    ]
    assert wrong == []
