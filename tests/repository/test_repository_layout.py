"""Where the packages lie in the repository, and what each of them must have."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(
    path.parent for pattern in ("packages", "plugins") for path in ROOT.glob(f"{pattern}/*/pyproject.toml")
)
SOURCES = sorted(path for package in PACKAGES for path in package.glob("src/**/*.py") if "_pb2" not in path.name)
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)


def project_of(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


def requirements_of(package: Path) -> list[Requirement]:
    project = project_of(package)
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def tops_of(package: Path) -> list[Path]:
    """The folders of a distribution that are imported by name."""
    found = [*package.glob("src/gowork/*"), *package.glob("src/gowork_*")]
    return [path for path in found if path.is_dir() and path.name != "__pycache__"]


def test_gowork_stays_a_namespace() -> None:
    # `python -m gowork` needs this file, and with it `gowork` is still a namespace.
    allowed = {ROOT / "packages/gowork-cli/src/gowork/__main__.py"}
    assert {path for path in ROOT.glob("*/*/src/gowork/*") if path.is_file()} <= allowed


@each_package
def test_every_package_brings_its_papers(package: Path) -> None:
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        assert (package / name).stat().st_size > 0, name
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    tops = tops_of(package)
    assert tops
    for top in tops:
        assert (top / "py.typed").is_file(), f"{top} has no py.typed"
    assert list(package.glob("tests/test_*.py")) + list(package.glob("tests/**/test_*.py")), "no tests"


@each_package
def test_every_package_states_its_version_python_and_licence(package: Path) -> None:
    project = project_of(package)
    Version(project["version"])
    assert "dynamic" not in project
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "Apache-2.0"


@each_package
def test_requirements_are_ranges_with_an_upper_bound(package: Path) -> None:
    for requirement in requirements_of(package):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, str(requirement)


@each_package
def test_every_runtime_dependency_is_justified_in_a_decision(package: Path) -> None:
    decisions = "\n".join(path.read_text() for path in (ROOT / "docs/decisions").glob("*.md"))
    justified = set(re.findall(r"^- \*\*([a-z0-9-]+)\*\*", decisions, flags=re.MULTILINE))
    needed = {
        requirement.name for requirement in requirements_of(package) if not requirement.name.startswith("gowork-")
    }
    assert needed <= justified


def test_the_workspace_tools_know_every_package() -> None:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    (listed,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PACKAGES"
    ]
    assert sorted(listed) == [str(package.relative_to(ROOT)) for package in PACKAGES]
    assert {str(package.relative_to(ROOT) / "src") for package in PACKAGES} <= set(root["tool"]["mypy"]["mypy_path"])
    assert set(root["tool"]["uv"]["sources"]) == {package.name for package in PACKAGES}
    modules = {
        str(path.relative_to(package / "src")).replace("/", ".") for package in PACKAGES for path in tops_of(package)
    }
    assert set(root["tool"]["importlinter"]["root_packages"]) == modules


@each_package
def test_console_scripts_start_outside_of_the_namespace(package: Path) -> None:
    for name, target in project_of(package).get("scripts", {}).items():
        # A script inside of the namespace could not even start when another project has taken the name.
        start = package / "src" / target.partition(":")[0].replace(".", "/")
        assert start.with_suffix(".py").is_file()
        assert not target.startswith("gowork."), name


@pytest.mark.parametrize("init", [path for path in SOURCES if path.name == "__init__.py"], ids=str)
def test_init_files_only_re_export(init: Path) -> None:
    for node in ast.parse(init.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
        assert docstring or names or isinstance(node, ast.ImportFrom), f"line {node.lineno}: {ast.unparse(node)}"


def test_no_source_leaves_work_for_later() -> None:
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(TODO|FIXME|XXX)\b(?!.*#\d)", line)
    ]
    assert left == []


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    folder = ROOT / "docs/decisions"
    names = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert [name[:4] for name in names] == [f"{number:04}" for number in range(1, len(names) + 1)]
    index = (folder / "README.md").read_text()
    assert [name for name in names if f"({name})" not in index] == []
