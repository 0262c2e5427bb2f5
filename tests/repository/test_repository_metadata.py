"""What an index shows of each package: versions that agree, and links that work outside of the repository."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(
    path.parent for pattern in ("packages", "plugins") for path in ROOT.glob(f"{pattern}/*/pyproject.toml")
)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gowork"]["repository"]
#: The beginnings of links to a file of the repository: to read it, to list it, and to show it within a page.
FILES = (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/", f"{REPOSITORY}/raw/main/")
#: The kinds of classifiers by which people search for such a package.
CLASSIFIERS = ("Development Status", "Framework", "Intended Audience", "Operating System", "Topic", "Typing")
each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)


def project_of(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


def modules_of(package: Path) -> list[str]:
    """The modules that people import from a distribution."""
    tops = [*package.glob("src/gowork/*"), *package.glob("src/gowork_plugin_*")]
    return [str(top.relative_to(package / "src")).replace("/", ".") for top in tops if (top / "__init__.py").is_file()]


def links_of(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


@each_package
def test_imported_packages_state_the_version_of_their_distribution(package: Path) -> None:
    modules = modules_of(package)
    assert modules
    for module in modules:
        assert importlib.import_module(module).__version__ == project_of(package)["version"], module


@each_package
def test_the_newest_section_of_the_changelog_is_the_version(package: Path) -> None:
    sections = re.findall(r"^## \[([^]]+)\] - (.+)$", (package / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = [Version(name) for name, _ in sections]
    assert versions[0] == Version(project_of(package)["version"])
    assert versions == sorted(set(versions), reverse=True)
    for name, when in sections[1:]:
        assert date.fromisoformat(when) is not None, f"{name} has been released, but its section has no date"


@each_package
def test_siblings_are_required_in_the_version_that_stands_here(package: Path) -> None:
    project = project_of(package)
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    versions = {sibling.name: Version(project_of(sibling)["version"]) for sibling in PACKAGES}
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name in versions:
            version = versions[requirement.name]
            series = f">={version.major}.{version.minor},<{version.major}.{version.minor + 1}"
            assert requirement.specifier == Requirement(f"x{series}").specifier, str(requirement)


def test_packages_that_need_the_same_library_take_the_same_versions() -> None:
    ranges: dict[str, set[str]] = {}
    for package in PACKAGES:
        for requirement in map(Requirement, project_of(package)["dependencies"]):
            ranges.setdefault(requirement.name, set()).add(str(requirement.specifier))
    # Otherwise `nox -s oldest`, which installs all packages together, would never try the oldest version of one.
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


@each_package
def test_an_index_page_leads_to_the_repository_and_says_who_it_is_for(package: Path) -> None:
    project, folder = project_of(package), package.relative_to(ROOT)
    assert project["urls"] == {
        "Homepage": REPOSITORY,
        "Documentation": f"{REPOSITORY}/blob/main/{folder}/README.md",
        "Changelog": f"{REPOSITORY}/blob/main/{folder}/CHANGELOG.md",
        "Issues": f"{REPOSITORY}/issues",
        "Source": f"{REPOSITORY}/tree/main/{folder}",
    }
    kinds = {line.partition(" :: ")[0] for line in project["classifiers"]}
    assert kinds >= {*CLASSIFIERS, "Programming Language"}


@each_package
def test_links_of_a_packages_readme_work_from_an_index_page(package: Path) -> None:
    links = links_of(package / "README.md")
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


@pytest.mark.parametrize(
    "page", sorted({*ROOT.glob("*.md"), *ROOT.glob("p*/*/*.md"), *ROOT.glob("docs/**/*.md")}), ids=str
)
def test_links_to_the_repository_name_files_that_are_there(page: Path) -> None:
    targets = [link.removeprefix(prefix) for link in links_of(page) for prefix in FILES if link.startswith(prefix)]
    assert [target for target in targets if not (ROOT / target.partition("#")[0]).exists()] == []
    others = [link for link in links_of(page) if link.startswith(f"{REPOSITORY}/") and not link.startswith(FILES)]
    assert others == [], "a link into the repository that names no file"


#: Pages that may tell how to install something.
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("p*/*/*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")})
#: A command of pip, with the lines that a backslash joins to it.
INSTALL = re.compile(r"pip install ((?:[^\n`\\]|\\\n)+)")


def installs_of(page: Path) -> list[list[str]]:
    """What each `pip install` on a page installs from a checkout or the public index, without options."""
    commands = [command.replace("\\\n", " ") for command in INSTALL.findall(page.read_text())]
    words = [shlex.split(line, comments=True) for line in commands]
    # Nobody else can put a package where these look.
    public = [line for line in words if not {"--no-index", "--index-url"} & {*line}]
    return [[word for word in line if not word.startswith("-")] for line in public]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_install_lines_name_what_is_there(page: Path) -> None:
    siblings = {package.name: package for package in PACKAGES}
    for words in installs_of(page):
        # The packages are on no index, so each is named by its path, and so is every sibling that it needs.
        assert [word for word in words if word.partition("[")[0] in {"gowork", *siblings}] == [], words
        named: dict[str, set[str]] = {}
        for word in words:
            if word.startswith(("./", "packages/", "plugins/")):
                path, _, wanted = word.removesuffix("]").partition("[")
                assert (ROOT / path / "pyproject.toml").is_file(), path
                named[Path(path).name] = set(wanted.split(",")) - {""}
        for name, extras in named.items():
            project = project_of(siblings[name])
            lines = [
                *project["dependencies"],
                *(line for extra in extras for line in project["optional-dependencies"][extra]),
            ]
            needed = {Requirement(line).name for line in lines} & set(siblings)
            assert needed <= set(named), f"{page.name}: {name} needs {sorted(needed - set(named))}"


def test_a_name_is_taken_from_no_public_index(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`pip install --find-links F gowork-all`, `pip install --no-index --find-links F gowork-all`")
    assert installs_of(page) == [["F", "gowork-all"]]


def test_the_install_lines_are_seen() -> None:
    assert ["nox"] in installs_of(ROOT / "README.md")
    assert "./packages/gowork-leader" in [word for words in installs_of(ROOT / "README.md") for word in words]
    assert all(installs_of(package / "README.md") for package in PACKAGES)


@each_package
def test_the_versions_that_a_page_asks_for_are_those_that_it_describes(package: Path) -> None:
    versions = {project_of(other)["name"]: Version(project_of(other)["version"]) for other in PACKAGES}
    for text in re.findall(r'"(gowork-[a-z-]+[<>=~!][^"]*)"', (package / "README.md").read_text()):
        asked = Requirement(text)
        assert asked.specifier.contains(versions[asked.name], prereleases=True), text
