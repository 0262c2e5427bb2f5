"""The Dockerfiles fit the packages, and their locks what these require. `nox -s images` builds and runs them."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from gowork.cli.root import cli
from gowork.leader._app.command import main as leader
from gowork.worker._app.command import main as worker

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/docker"
#: {role: the folders of the packages in its image, each with its extras}.
ROLES: dict[str, dict[str, set[str]]] = {
    "leader": {"packages/gowork-leader": {"postgresql"}},
    "worker": {"packages/gowork-worker": set(), "plugins/gowork-plugin-shell": set()},
    "cli": {"packages/gowork-cli": set()},
}
each_role = pytest.mark.parametrize("role", ROLES)


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]


def folder_of(name: str) -> str:
    (found,) = [path for pattern in ("packages", "plugins") for path in ROOT.glob(f"{pattern}/{name}")]
    return str(found.relative_to(ROOT))


def required(role: str) -> tuple[set[str], list[Requirement]]:
    """The folders of gowork's packages in an image, and what they require of others."""
    wanted = {folder: set(extras) for folder, extras in ROLES[role].items()}
    done: dict[str, set[str]] = {}
    others = []
    while wanted:
        folder, extras = wanted.popitem()
        if folder in done and extras <= done[folder]:
            continue
        done[folder] = done.get(folder, set()) | extras
        facts = project(folder)
        optional = facts.get("optional-dependencies", {})
        for line in [*facts["dependencies"], *(line for extra in done[folder] for line in optional[extra])]:
            requirement = Requirement(line)
            if requirement.name.startswith("gowork-"):
                wanted.setdefault(folder_of(requirement.name), set()).update(requirement.extras)
            else:
                others.append(requirement)
    return set(done), others


def locked(role: str) -> dict[str, str]:
    """What a lock has: {name: version}."""
    lines = (FOLDER / f"{role}.lock").read_text().splitlines()
    return dict(re.match(r"([a-z0-9-]+)==(\S+)", line).groups() for line in lines if re.match(r"[a-z]", line))  # type: ignore[union-attr, misc]


def steps(role: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its words, in their order."""
    text = re.sub(r"^#.*\n", "", (FOLDER / f"{role}.Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", "").splitlines():
        if line:
            name, _, words = line.partition(" ")
            yield name, words.strip()


@each_role
def test_a_lock_fits_what_the_packages_require(role: str) -> None:
    versions = locked(role)
    _, others = required(role)
    assert len(others) > 5
    for requirement in others:
        assert requirement.name in versions, requirement
        assert Version(versions[requirement.name]) in requirement.specifier, requirement


@pytest.mark.parametrize("name", [*ROLES, "build"])
def test_every_version_of_a_lock_has_hashes_and_the_lock_says_how_it_is_made(name: str) -> None:
    text = (FOLDER / f"{name}.lock").read_text()
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 3
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert "uv pip compile --universal --python-version 3.11 --generate-hashes" in text.splitlines()[1]
    assert f"-o deploy/docker/{name}.lock" in text.splitlines()[1]
    # Neither an index nor a file of the machine that made it.
    assert "://" not in text


def test_wheels_are_built_with_the_version_that_the_project_builds_with() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert locked("build")["hatchling"] in str(groups["build"])
    (line,) = [line for line in (FOLDER / "build.in").read_text().splitlines() if not line.startswith("#")]
    assert line in groups["build"]


@each_role
def test_an_image_has_its_packages_and_those_that_they_need(role: str) -> None:
    text = (FOLDER / f"{role}.Dockerfile").read_text()
    folders, _ = required(role)
    assert set(re.findall(r"\./((?:packages|plugins)/[\w-]+)", text)) == folders
    (version,) = re.findall(r'image\.version="(\S+)"', text)
    (main, *_) = ROLES[role]
    assert version == project(main)["version"]


@each_role
def test_a_dockerfile_has_two_stages_and_ends_as_a_user_by_number_in_exec_form(role: str) -> None:
    found = list(steps(role))
    assert [words for name, words in found if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    last = found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]
    settled = dict(last)
    assert settled["USER"] == "10000:10000"
    (program,) = json.loads(settled["ENTRYPOINT"])
    assert program in project(next(iter(ROLES[role])))["scripts"]
    if role != "cli":
        assert json.loads(settled["HEALTHCHECK"].partition(" CMD ")[2]) == [f"gowork-{role}", "--check"]
    # Nothing is installed there, and only what was built is taken along.
    assert [words for name, words in last if name == "COPY"] == ["--from=build /opt/gowork /opt/gowork"]
    assert [shlex.split(words)[0] for name, words in last if name == "RUN"] == (["install"] if role == "leader" else [])


def commands() -> list[list[str]]:
    """The words of each command of docs/containers.md."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/containers.md").read_text(), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", "").splitlines()]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_what_the_page_says_to_type_has_its_files_and_options(words: list[str]) -> None:
    for word in words:
        if word.startswith("deploy/"):
            assert (ROOT / word).is_file(), word
    known: dict[str, click.Command] = {"leader": leader, "worker": worker, "cli": cli}
    for role, command in known.items():
        if words[:2] == ["docker", "run"] and f"gowork-{role}" in words:
            with command.make_context(role, words[words.index(f"gowork-{role}") + 1 :]) as context:
                assert context.params or context.args


def test_the_page_runs_each_image() -> None:
    run = [words for words in commands() if words[:2] == ["docker", "run"]]
    assert {role for role in ROLES for words in run if f"gowork-{role}" in words} == {*ROLES}


def test_the_builder_gets_what_the_dockerfiles_copy_and_no_more() -> None:
    given = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = {
        word for role in ROLES for name, words in steps(role) if name == "COPY" for word in words.split()[:-1]
    } - {"--from=build", "/opt/gowork"}
    assert given == ["deploy/docker/*.lock", "packages", "plugins"]
    assert all(Path(word).match(pattern) for word in copied for pattern in given if word.startswith(pattern[:6]))
    assert all((ROOT / word).exists() for word in copied)
