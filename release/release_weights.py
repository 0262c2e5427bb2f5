"""What each package weighs where it is installed alone, and whether the documentation's table still says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: How far a figure of the table may be from what is measured, as a share: dependencies grow by themselves.
TOLERANCE = 0.25
_ROW = re.compile(r"^\| (gowork-[a-z-]+) \| ([\d.]+) MB \| (\d+) \|$", re.MULTILINE)
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Weight:
    """What an environment holds."""

    installed_bytes: int
    #: How many distributions are there beside the package itself.
    dependencies: int


def weigh(home: Path) -> Weight:
    """Weighs the packages of an environment, without bytecode, which only comes when they are used."""
    (packages,) = home.glob("lib/python3*/site-packages")
    # Where the environment was made by pip or virtualenv, these are there without being asked for.
    own = ("pip", "_virtualenv", "distutils-precedence")
    files = [
        path
        for path in packages.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and not path.relative_to(packages).parts[0].startswith(own)
    ]
    distributions = {path.parent for path in files if path.name == "METADATA" and path.parent.suffix == ".dist-info"}
    return Weight(sum(path.stat().st_size for path in files), len(distributions) - 1)


def table(weights: Mapping[str, Weight]) -> str:
    """The table of the documentation."""
    lines = ["| package | installed | other packages that come along |", "|---|---|---|"]
    for name, weight in sorted(weights.items(), key=lambda item: item[1].installed_bytes):
        lines.append(f"| {name} | {weight.installed_bytes / _MB:.1f} MB | {weight.dependencies} |")
    return "\n".join(lines)


def rows(page: str) -> dict[str, Weight]:
    """The table of a page: {package: what the page says}."""
    return {name: Weight(round(float(size) * _MB), int(count)) for name, size, count in _ROW.findall(page)}


def faults_of_table(page: str, weights: Mapping[str, Weight]) -> Iterator[str]:
    """Where a page's table differs from what was measured by more than TOLERANCE."""
    told = rows(page)
    for name, weight in weights.items():
        said = told.get(name)
        if said is None:
            yield f"{name} is not in the table"
            continue
        for what, one, other in (
            ("MB", said.installed_bytes / _MB, weight.installed_bytes / _MB),
            ("other packages", said.dependencies, weight.dependencies),
        ):
            # A difference of one is never a fault, since small numbers have no small shares.
            if abs(one - other) > max(1, TOLERANCE * other):
                yield f"{name} has {other:.1f} {what}, and the table says {one:.1f}"
