"""ARCHITECTURE names the packages, folders, layers, modules and invariants that the tree has, and no others."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGES = sorted(path.parent for path in ROOT.glob("p*s/*/pyproject.toml"))
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
SOURCES = [path for package in PACKAGES for path in package.glob("src/**/*.py") if "_pb2" not in path.name]
#: The files that the page may name, as paths from the repository's root.
FILES = {
    str(path.relative_to(ROOT))
    for folder in ("packages", "plugins", "tests")
    for path in ROOT.glob(f"{folder}/**/*.py")
}

#: The column of the drawing where the packages begin; what is in them begins further on.
TOP_COLUMN = 29


def drawing() -> Iterator[tuple[str, str, list[str]]]:
    """The drawing's lines: (the package's folder, the module above or "", the names on the line)."""
    (text,) = re.findall(r"^```text\n(packages/.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    package, above = "", [(-1, "")]
    for line in text.splitlines():
        found = re.fullmatch(r"(\S*) +(\S+(?: \| \S+)*)(?:  .*)?", line)
        assert found, line
        package = found[1] or package
        # A line that names its folder is at the top, also where the folder's name reaches into the next column.
        depth = TOP_COLUMN if found[1] else found.start(2)
        while above[-1][0] >= depth:
            above.pop()
        inside, names = above[-1][1], found[2].split(" | ")
        if inside and "." in names[0]:
            # A room of one of several neighbours says whose it is.
            owner, _, name = names[0].rpartition(".")
            inside, names = f"{inside.rpartition('.')[0]}.{owner}", [name]
        yield package, inside, names
        above.append((depth, ".".join(filter(None, [inside, names[-1]]))))


def drawn_modules() -> dict[str, str]:
    """The modules that are drawn: {module: its package's folder}."""
    return {".".join(filter(None, [inside, name])): package for package, inside, names in drawing() for name in names}


def layers_of(contract: dict[str, Any]) -> list[set[str]]:
    return [{name.strip(" ()") for name in re.split(r"[|:]", layer)} for layer in contract["layers"]]


def test_every_package_and_room_is_drawn_and_every_one_that_is_drawn_is_there() -> None:
    rooms = {}
    for path in SOURCES:
        package = ROOT.joinpath(*path.relative_to(ROOT).parts[:2])
        module = ".".join(path.parent.relative_to(package / "src").parts)
        # A folder of generated code alone is not drawn, and neither is the namespace.
        if path.name != "__init__.py" and module != "gowork":
            rooms[module] = str(package.relative_to(ROOT))
    assert drawn_modules() == rooms


@pytest.mark.parametrize("package", ["gowork.leader", "gowork.worker"])
def test_the_layers_that_are_drawn_are_those_that_the_import_check_keeps(package: str) -> None:
    (contract,) = [one for one in CONTRACTS if one["type"] == "layers" and one.get("containers") == [package]]
    assert [set(names) for _, inside, names in drawing() if inside == package] == layers_of(contract)


def test_the_packages_are_drawn_in_the_order_that_the_import_check_keeps() -> None:
    (contract,) = [one for one in CONTRACTS if one["type"] == "layers" and "containers" not in one]
    layers = layers_of(contract)
    places = [
        next(place for place, layer in enumerate(layers) if name in layer)
        for _, inside, names in drawing()
        for name in names
        if not inside
    ]
    assert places == sorted(places)
    assert sum(len(layer) for layer in layers) == len(places)


def test_the_leaders_core_and_the_workers_desk_are_pure_by_one_rule() -> None:
    core, desk = [
        {key: value for key, value in one.items() if key not in {"name", "source_modules"}}
        for one in CONTRACTS
        if one["name"].endswith("is pure")
    ]
    assert core == desk
    assert "allow_indirect_imports" not in core


def rows() -> Iterator[tuple[str, str, str]]:
    """The rows that say what a folder owns: (the package, the folder, what it owns)."""
    for package in ("gowork.leader", "gowork.worker"):
        text = PAGE.partition(f"**{package.replace('.', '-')}**")[2].partition("\n\n**")[0]
        for room, owns in re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", text, re.MULTILINE):
            yield package, room, owns


def test_every_layer_has_a_row_that_says_what_it_owns() -> None:
    drawn = [
        (inside, name)
        for _, inside, names in drawing()
        for name in names
        if inside in {"gowork.leader", "gowork.worker"}
    ]
    assert [(package, room) for package, room, _ in rows()] == drawn


def test_every_module_that_a_row_names_is_in_its_room() -> None:
    named = [
        f"{package.replace('.', '/')}/{room}/{module}"
        for package, room, owns in rows()
        for module in re.findall(r"`([a-z_]+)`", owns)
    ]
    assert len(named) > 40
    assert [
        name for name in named if not any(file.endswith((f"/{name}.py", f"/{name}/__init__.py")) for file in FILES)
    ] == []


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`([\w/-]+\.py)`", PAGE)
    assert named
    assert [name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in FILES)] == []


def test_every_folder_of_tests_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:packages|plugins|tests|docs|deploy)/[\w/.-]+)`", PAGE)
    assert named
    assert [name for name in named if not (ROOT / name).exists() and not list(ROOT.glob(f"packages/*/{name}"))] == []


def test_whoever_keeps_an_invariant_is_there() -> None:
    table = PAGE.partition("## Invariants")[2].partition("\n## ")[0]
    keepers = re.findall(r"`((?:worker|leader)\.[a-z_.]+)`", table)
    assert keepers
    sources = {str(path) for path in SOURCES}
    for keeper in keepers:
        path = keeper.replace(".", "/")
        assert any(f"/gowork/{path}{end}" in source for source in sources for end in (".py", "/")), keeper


def invariants_of(path: Path) -> set[str]:
    """The invariants that a module's docstring names: "Invariant ALONE: ...", "Invariants: HELD (...), ..."."""
    told = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("Invariant")[2]
    return set(re.findall(r"(?:^s?:? |, )([A-Z]{4,}(?:-[A-Z]+)*)(?= \(|:)", told.replace("\n", " ")))


def test_every_invariant_that_the_code_names_is_listed() -> None:
    table = PAGE.partition("## Invariants")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| ([A-Z-]+) \|", table, re.MULTILINE))
    named = {name: path.name for path in SOURCES for name in invariants_of(path)}
    assert len(named) > 10
    assert {name: file for name, file in named.items() if name not in listed} == {}
