"""A wheel alone comes with the packages of this repository that it needs, their extras, and no others."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from release_install import OLDEST_PYTHON, SMOKE, wanted
from release_papers import Package, packages
from release_siblings import closure_of

ROOT = Path(__file__).parents[2]
KNOWN = packages(ROOT)


def closure(name: str) -> dict[str, set[str]]:
    return {each: set(extras) for each, extras in closure_of(KNOWN[name], KNOWN).items()}


def test_what_is_needed_indirectly_and_by_extras_comes_along() -> None:
    assert closure("gowork-proto") == {"gowork-proto": set()}
    assert closure("gowork-client") == {"gowork-client": set(), "gowork-base": set(), "gowork-proto": set()}
    assert closure("gowork-all") == {
        "gowork-all": set(),
        "gowork-base": {"metrics", "server", "telemetry"},
        "gowork-cli": {"up"},
        "gowork-client": {"schemas"},
        "gowork-leader": set(),
        "gowork-proto": set(),
        "gowork-worker": set(),
    }


def test_what_only_an_extra_of_a_sibling_asks_for_comes_along(tmp_path: Path) -> None:
    texts = {
        "one": 'dependencies = ["two[more]>=1,<2"]',
        "two": 'dependencies = ["other>=1,<2"]\n[project.optional-dependencies]\nmore = ["three>=1"]\nrest = ["four"]',
        "three": "dependencies = []",
        "four": "dependencies = []",
    }
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(f"[project]\n{text}\n")
    known = {name: Package(name, tmp_path / name, "1.0") for name in texts}
    assert closure_of(known["one"], known) == {"one": set(), "two": {"more"}, "three": set()}


def test_the_wheels_are_named_by_their_paths_so_that_no_index_can_answer_for_them(tmp_path: Path) -> None:
    wheels = {name: tmp_path / f"{name}.whl" for name in KNOWN}
    lines = wanted(KNOWN["gowork-cli"], KNOWN, wheels)
    assert f"gowork-client[schemas] @ {wheels['gowork-client'].as_uri()}" in lines
    assert {Requirement(line).name for line in lines} == {"gowork-base", "gowork-cli", "gowork-client", "gowork-proto"}
    assert all(Requirement(line).url for line in lines)


def test_the_client_alone_has_neither_server_nor_exporters() -> None:
    """Lists what gowork-client installs of others, so that nobody makes it larger without noticing."""
    found: set[str] = set()
    for name, extras in closure("gowork-client").items():
        project = tomllib.loads((KNOWN[name].folder / "pyproject.toml").read_text())["project"]
        lines = [
            *project["dependencies"],
            *(line for extra in extras for line in project["optional-dependencies"][extra]),
        ]
        found |= {Requirement(line).name for line in lines}
    assert found - set(KNOWN) == {
        "cryptography", "googleapis-common-protos", "grpcio", "msgspec", "opentelemetry-api", "packaging", "protobuf",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_each_package_has_a_program_that_tries_it(name: str) -> None:
    stem = "gowork_plugin" if name.startswith("gowork-plugin-") else name.replace("-", "_")
    assert (SMOKE / f"smoke_{stem}.py").is_file()
    assert tomllib.loads((KNOWN[name].folder / "pyproject.toml").read_text())["project"]["requires-python"] == (
        f">={OLDEST_PYTHON}"
    )
