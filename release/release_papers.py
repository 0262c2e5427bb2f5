"""What must agree before a package is released: its tag, its version, its changelog, and a work tree without changes.

It reads and changes nothing.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

#: The newest section of a changelog: its version, its date or "Unreleased", and what it says.
_SECTION = re.compile(r"^## \[([^]]+)\] - (.+?)\n(.*?)(?=^## \[|\Z)", re.MULTILINE | re.DOTALL)
#: How long git may take, in seconds.
_GIT_SECONDS_MAX = 60.0


class ReleaseError(Exception):
    """A package can't be released as it is."""


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution of the repository."""

    name: str
    #: Its folder.
    folder: Path
    version: str

    @property
    def tag(self) -> str:
        """The tag of the commit from which this version is released."""
        return f"{self.name}-v{self.version}"


def packages(root: Path) -> dict[str, Package]:
    """Every distribution of the repository: {its name: it}."""
    found = {}
    for path in sorted([*root.glob("packages/*/pyproject.toml"), *root.glob("plugins/*/pyproject.toml")]):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        found[project["name"]] = Package(project["name"], path.parent, project["version"])
    return found


def package_of(root: Path, name: str) -> Package:
    """The distribution of this name.

    Raises:
        ReleaseError: there is none.
    """
    known = packages(root)
    if name not in known:
        raise ReleaseError(f"{name!r} is no package of this repository; it has {', '.join(known)}")
    return known[name]


def faults(root: Path, package: Package) -> list[str]:
    """What keeps this version of the package from being released from the commit that is checked out."""
    return [
        *_faults_of_versions(package),
        *_faults_of_changelog(package, rehearsal=False),
        *_faults_of_tag(root, package),
        *_faults_of_tree(root),
    ]


def faults_of_rehearsal(package: Package) -> list[str]:
    """What would keep the package from being released, except what a release itself adds: the tag and the date."""
    return [*_faults_of_versions(package), *_faults_of_changelog(package, rehearsal=True)]


def git(root: Path, *arguments: str) -> str:
    """What git prints for these arguments.

    Raises:
        ReleaseError: git failed.
    """
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS_MAX, check=False
    )
    if done.returncode:
        raise ReleaseError(f"git {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def _faults_of_versions(package: Package) -> Iterator[str]:
    files = sorted(package.folder.glob("src/**/_version.py"))
    if not files:
        yield f"{package.folder.name}/src has no _version.py; write `__version__` there"
    for path in files:
        found = re.search(r'^__version__ = "(.+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
        told = found[1] if found else "none"
        if told != package.version:
            shown = path.relative_to(package.folder)
            yield f"{shown} has the version {told}, and pyproject.toml has {package.version}; make them equal"


def _faults_of_changelog(package: Package, *, rehearsal: bool) -> Iterator[str]:
    found = _SECTION.search((package.folder / "CHANGELOG.md").read_text(encoding="utf-8"))
    if found is None:
        yield "CHANGELOG.md has no section; begin one with `## [VERSION] - YYYY-MM-DD`"
        return
    version, when, text = found.groups()
    if version != package.version:
        yield f"the newest section of CHANGELOG.md is {version}, and pyproject.toml has {package.version}"
    if not text.strip():
        yield f"the section {version} of CHANGELOG.md is empty; say what has changed for users"
    if rehearsal and when == "Unreleased":
        return
    try:
        date.fromisoformat(when)
    except ValueError:
        yield f"the section {version} of CHANGELOG.md has no date but {when!r}; write the day, YYYY-MM-DD"


def _faults_of_tag(root: Path, package: Package) -> Iterator[str]:
    here = git(root, "tag", "--points-at", "HEAD").split()
    if package.tag in here:
        return
    if git(root, "tag", "--list", package.tag).split():
        yield f"the tag {package.tag} is at another commit; a version is released once, so take a new version"
        return
    others = [tag for tag in here if tag.startswith(f"{package.name}-v")]
    told = f", and it has {', '.join(others)}" if others else ""
    yield f"the commit has no tag {package.tag}{told}; `git tag {package.tag}` when all else is right"


def _faults_of_tree(root: Path) -> Iterator[str]:
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        yield f"the work tree differs from its commit: {'; '.join(changed[:3])}{more}; commit or remove that"
