"""One name brings what a cluster on one machine needs, and never another project's package."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]


def needed_by(path: Path) -> list[Requirement]:
    project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project.get("optional-dependencies", {}).values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def test_one_name_brings_the_command_line_the_client_the_leader_and_the_worker() -> None:
    assert {requirement.name: requirement.extras for requirement in needed_by(ROOT / "packages/gowork-all")} == {
        "gowork-cli": {"up"},
        "gowork-client": set(),
        "gowork-leader": set(),
        "gowork-worker": set(),
    }


def test_no_package_asks_for_the_project_that_has_the_short_name() -> None:
    asked = {needed.name for path in ROOT.glob("p*s/*/pyproject.toml") for needed in needed_by(path.parent)}
    assert "gowork-proto" in asked
    assert "gowork" not in asked
