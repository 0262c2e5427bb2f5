"""The noxfile: a part that fails hides no other part."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from nox.command import CommandFailed
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
#: Sessions that take too long for the tests, and belong to `nox -s all`. Not `bench`, whose figures people read.
LONG = {
    "chaos",
    "chaos-ha",
    "demo",
    "docs",
    "drill",
    "embedding",
    "newcomer",
    "explore",
    "images",
    "mutants",
    "newest",
    "newest-etcd",
    "oldest",
    "phone",
    "release",
    "sim",
    "soak",
    "upgrade",
}


class Failed(Exception):
    """The session has failed, with these words."""


class Skipped(Exception):
    """The session was skipped, with these words."""


class Session:
    """Stands in for nox.Session; commands that contain one of the `failing` words fail."""

    def __init__(self, *failing: str, posargs: Sequence[str] = ()) -> None:
        self._failing = failing
        self.posargs = list(posargs)
        #: (what was called, its arguments), in order.
        self.done: list[tuple[str, tuple[str, ...]]] = []
        self.logged: list[str] = []
        self.venv_backend = "uv"

    def run(self, *command: str, **_: Any) -> None:
        self.done.append(("run", command))
        if any(word in part for word in self._failing for part in command):
            raise CommandFailed

    def install(self, *requirements: str) -> None:
        self.done.append(("install", requirements))

    def error(self, text: str) -> None:
        raise Failed(text)

    def skip(self, text: str) -> None:
        raise Skipped(text)

    def notify(self, part: str, posargs: Sequence[str] = ()) -> None:
        self.done.append((part, tuple(posargs)))

    def log(self, text: str) -> None:
        self.logged.append(text)

    @property
    def parts(self) -> list[str]:
        return [what for what, _ in self.done if what not in ("run", "install")]


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # The noxfile gets a registry of its own, because sessions register themselves by name, once.
    monkeypatch.setattr("nox.registry._REGISTRY", {})
    spec = importlib.util.spec_from_file_location("gowork_noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_part_of_the_tests_runs_although_pytest_fails(noxfile: ModuleType) -> None:
    session = Session("pytest")
    with pytest.raises(CommandFailed):
        noxfile.tests(session)
    checks = ["lint", "types", "contract", "protos", "client", "dashboards", "build", "mutants"]
    assert session.parts == checks
    assert [dict(session.done)[part] for part in ("protos", "client", "dashboards")] == [("--check",)] * 3


def test_a_part_says_how_long_it_took_also_when_it_fails(noxfile: ModuleType) -> None:
    session = Session("pytest")
    with pytest.raises(CommandFailed):
        noxfile.tests(session)
    assert session.logged == ["tests: 0 s"]


@pytest.mark.parametrize(
    ("part", "failing", "said"),
    [
        ("lint", ("check",), "failed: lint; format"),
        ("lint", ("lint-imports",), "failed: layers"),
        ("contract", ("lint", "breaking"), "failed: lint; breaking changes"),
        ("types", ("benchmarks", "tests/compat"), "failed: tests/compat; benchmarks"),
    ],
)
def test_a_check_runs_all_its_tools_and_names_those_that_failed(
    noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch, part: str, failing: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/there")
    session = Session(*failing)
    with pytest.raises(Failed, match=f"^{said}$"):
        getattr(noxfile, part)(session)
    tools = {"lint": 3, "contract": 2, "types": 1 + len(noxfile.TYPED_TESTS)}
    assert [what for what, _ in session.done].count("run") == tools[part]


def test_types_of_all_tests_are_checked_once(noxfile: ModuleType) -> None:
    files = {*ROOT.glob("p*s/*/tests/**/*.py"), *ROOT.glob("tests/**/*.py")}
    checked_by = {path: [each for each in noxfile.TYPED_TESTS if path.is_relative_to(ROOT / each)] for path in files}
    assert {str(path): parts for path, parts in checked_by.items() if len(parts) != 1} == {}
    assert set(noxfile.TYPED_TESTS) - {"benchmarks"} == {part for parts in checked_by.values() for part in parts}


def test_ci_fails_where_a_tool_is_missing_and_others_skip(noxfile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(Skipped, match="buf"):
        noxfile.contract(Session())
    monkeypatch.setenv("CI", "true")
    with pytest.raises(Failed, match="buf"):
        noxfile.contract(Session())


def test_the_oldest_versions_are_what_the_packages_allow(noxfile: ModuleType) -> None:
    session = Session()
    noxfile.oldest(session)
    (arguments,) = [arguments for what, arguments in session.done if what == "install"]
    assert arguments[arguments.index("--resolution") + 1] == "lowest-direct"


def test_a_selection_of_tests_runs_no_other_part(noxfile: ModuleType) -> None:
    session = Session(posargs=["packages/gowork-leader"])
    noxfile.tests(session)
    assert session.parts == []
    assert session.done[-1] == ("run", ("pytest", "packages/gowork-leader"))


def test_all_runs_every_check_and_every_long_session(noxfile: ModuleType) -> None:
    session = Session()
    noxfile.all_(session)
    there = {name for name in LONG if hasattr(noxfile, name.replace("-", "_"))}
    assert set(session.parts) == {*noxfile.PARTS, *there}
    assert set(noxfile.LONGER) == there


def test_a_failure_is_noted_and_what_follows_runs(noxfile: ModuleType) -> None:
    failures: list[str] = []
    session = Session("one")
    for name in ("one", "two"):
        with noxfile.going_on(failures, name):
            session.run(name)
    assert [command for _, command in session.done] == [("one",), ("two",)]
    assert failures == ["one"]


@pytest.mark.parametrize(("arguments", "newcomer"), [(["--rehearse"], True), (["gowork-leader"], False)])
def test_a_rehearsal_of_all_packages_also_installs_them_by_one_name(
    noxfile: ModuleType, arguments: list[str], newcomer: bool
) -> None:
    session = Session(posargs=arguments)
    noxfile.release(session)
    programs = [command[1].rpartition("/")[2] for what, command in session.done if what == "run"]
    assert programs == ["run_release.py", *(["run_newcomer.py"] if newcomer else [])]
    assert noxfile.LONGER["release"] == ["--rehearse"]


#: Libraries that the code is tried with, in the ranges that its users have; and `nox`, which only starts the rest.
RANGES = {"attrs", "cryptography", "matplotlib", "nox", "psutil", "psycopg", "pydantic", "pyyaml", "rich", "watchfiles"}


def test_what_judges_the_code_has_one_version() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    lines = [line for group in groups.values() for line in group if isinstance(line, str)]
    tools = [requirement for requirement in map(Requirement, lines) if requirement.name not in RANGES]
    assert [str(tool) for tool in tools if [part.operator for part in tool.specifier] != ["=="]] == []
    assert "ruff" in {tool.name for tool in tools}


def test_ci_tries_every_python_that_the_packages_name() -> None:
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    project = tomllib.loads((ROOT / "packages/gowork-leader/pyproject.toml").read_text())["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert set(job["strategy"]["matrix"]["python"]) == named
    whole, oldest = (step for step in job["steps"] if "nox" in step.get("run", "") or step.get("run") == ".ci/run")
    assert whole["run"] == ".ci/run"
    assert oldest["if"].startswith(f"matrix.python == '{min(named, key=Version)}'")
    assert "nox -s oldest" in oldest["run"]
    assert not job["strategy"]["fail-fast"]


def test_ci_runs_the_command_that_readme_gives() -> None:
    *_, last = (ROOT / ".ci/run").read_text().strip().splitlines()
    command = last.removeprefix("exec ")
    assert command in (ROOT / "README.md").read_text().splitlines()


def test_the_site_is_built_where_all_that_it_describes_can_be_imported(noxfile: ModuleType) -> None:
    session = Session()
    noxfile.docs(session)
    (arguments,) = [arguments for what, arguments in session.done if what == "install"]
    assert any(argument.endswith("packages/gowork-leader[conformance]") for argument in arguments)
    assert session.done[-1][1][-1] == str(ROOT / "build/site")
