"""GitHub's workflows are well formed, run what others can run too, and may do no more than they need."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    # In YAML 1.1 the key `on` is a truth value.
    return {"on" if key is True else key: value for key, value in yaml.safe_load(path.read_text()).items()}


def jobs(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from read(path)["jobs"].items()


@pytest.mark.tool("actionlint")
def test_the_workflows_are_well_formed() -> None:
    # shellcheck and pyflakes would be used where they are installed, so that machines would differ.
    command = ["actionlint", "-no-color", "-shellcheck=", "-pyflakes=", *map(str, WORKFLOWS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@each_workflow
def test_an_action_is_the_commit_that_was_looked_at(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)$", path.read_text(), re.MULTILINE)
    assert used
    for action, comment in used:
        # Whoever owns an action can move its tags. The comment tells people, and tools, which version it is.
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@each_workflow
def test_one_action_has_one_version_in_all_workflows(path: Path) -> None:
    everywhere = re.findall(r"uses: ([^@\s]+)@(\S+)", "".join(each.read_text() for each in WORKFLOWS))
    here = re.findall(r"uses: ([^@\s]+)@(\S+)", path.read_text())
    assert {name: {one for other, one in everywhere if other == name} for name, _ in here} == {
        name: {one} for name, one in here
    }


@each_workflow
def test_a_workflow_may_read_and_nothing_else_unless_a_job_needs_more(path: Path) -> None:
    assert read(path)["permissions"] in ({}, {"contents": "read"})
    more = {(path.name, name) for name, job in jobs(path) if "write" in (job.get("permissions") or {}).values()}
    assert more <= {("release.yml", "publish"), ("docs.yml", "deploy")}
    assert "pull_request_target" not in read(path)["on"]


@each_workflow
def test_a_job_has_an_end_and_leaves_no_password_in_its_checkout(path: Path) -> None:
    for name, job in jobs(path):
        assert 0 < job["timeout-minutes"] <= 60, name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


@each_workflow
def test_no_text_from_outside_becomes_part_of_a_command(path: Path) -> None:
    commands = [step["run"] for _, job in jobs(path) for step in job["steps"] if "run" in step]
    assert [command for command in commands if "${{" in command] == []


def test_a_tag_releases_its_package_and_a_job_apart_publishes_what_was_built() -> None:
    release = read(FOLDER / "release.yml")
    assert release["on"] == {"push": {"tags": ["gowork-*-v*"]}}
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert "id-token" not in build["permissions"]
    assert publish["permissions"] == {"contents": "read", "id-token": "write"}
    assert (publish["needs"], publish["environment"]) == ("build", "release")
    commands = {name: "".join(step.get("run", "") for step in job["steps"]) for name, job in release["jobs"].items()}
    assert 'nox -s release -- "$PACKAGE"' in commands["build"]
    assert 'nox -s publish -- "$PACKAGE"' in commands["publish"]
    assert "nox -s release" not in commands["publish"]
    # GitHub keeps one waiting run of a group, and packages are released several at a time.
    assert "github.ref_name" in release["concurrency"]["group"]
    # The checks of the tag need all tags.
    assert build["steps"][0]["with"]["fetch-depth"] == 0
    handed = [
        step["with"]["path"]
        for job in (build, publish)
        for step in job["steps"]
        if "-artifact@" in step.get("uses", "")
    ]
    assert handed == ["build/release"] * 2


@pytest.mark.parametrize("tag", ["gowork-leader-v0.2.0", "gowork-plugin-http-v0.1.0", "gowork-cli-v1.0.0rc1"])
def test_the_package_is_what_stands_before_the_version_of_a_tag(tag: str, tmp_path: Path) -> None:
    steps = read(FOLDER / "release.yml")["jobs"]["build"]["steps"]
    (command,) = [step["run"] for step in steps if step.get("id") == "package"]
    env = {"GITHUB_REF_NAME": tag, "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-euc", command], env=env, check=True, timeout=60)
    assert (tmp_path / "output").read_text() == f"package={tag.rpartition('-v')[0]}\n"
