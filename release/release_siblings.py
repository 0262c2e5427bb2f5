"""Which packages of this repository a package needs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

from packaging.requirements import Requirement
from release_papers import Package


def siblings_of(
    package: Package, known: Mapping[str, Package], extras: frozenset[str] = frozenset()
) -> Iterator[Requirement]:
    """What a package, with these extras, asks for of this repository, without what those ask for."""
    project = tomllib.loads((package.folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    offered = project.get("optional-dependencies", {})
    for line in [*project.get("dependencies", []), *(line for extra in sorted(extras) for line in offered[extra])]:
        requirement = Requirement(line)
        if requirement.name in known:
            yield requirement


def closure_of(package: Package, known: Mapping[str, Package]) -> dict[str, frozenset[str]]:
    """The package and all of this repository that it needs: {name: the extras that are asked for}."""
    found: dict[str, frozenset[str]] = {package.name: frozenset()}
    waiting = [package.name]
    while waiting:
        name = waiting.pop()
        for requirement in siblings_of(known[name], known, found[name]):
            wanted = found.get(requirement.name, frozenset()) | frozenset(requirement.extras)
            if found.get(requirement.name) != wanted:
                found[requirement.name] = wanted
                waiting.append(requirement.name)
    return found
