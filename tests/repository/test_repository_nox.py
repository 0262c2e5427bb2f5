"""The noxfile: what fails in one part of a run hides nothing of the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nox.command import CommandFailed

ROOT = Path(__file__).parents[2]
#: Sessions that take too long for the tests, and belong to `nox -s all`; `bench` is for reading, not for passing.
LONG = {"chaos", "demo", "mutants", "sim", "soak"}


class Session:
    """What a session sees of nox, with commands that fail when they have one of these words."""

    def __init__(self, *failing: str, posargs: Sequence[str] = ()) -> None:
        self._failing = failing
        self.posargs = list(posargs)
        #: What was done, in order: (what, its arguments).
        self.done: list[tuple[str, tuple[str, ...]]] = []
        self.logged: list[str] = []
        self.venv_backend = "uv"

    def run(self, *command: str, **_: Any) -> None:
        self.done.append(("run", command))
        if any(word in part for word in self._failing for part in command):
            raise CommandFailed

    def install(self, *_: str) -> None:
        self.done.append(("install", ()))

    def notify(self, part: str, posargs: Sequence[str] = ()) -> None:
        self.done.append((part, tuple(posargs)))

    def log(self, text: str) -> None:
        self.logged.append(text)

    @property
    def parts(self) -> list[str]:
        return [what for what, _ in self.done if what not in ("run", "install")]


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # A registry of its own: sessions register themselves by name, once.
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
    assert session.parts == ["protos", "client", "dashboards", "build", "mutants"]
    assert [dict(session.done)[part] for part in ("protos", "client", "dashboards")] == [("--check",)] * 3


def test_a_part_says_how_long_it_took_also_when_it_fails(noxfile: ModuleType) -> None:
    session = Session("pytest")
    with pytest.raises(CommandFailed):
        noxfile.tests(session)
    assert session.logged == ["tests: 0 s"]


def test_a_selection_of_tests_runs_no_other_part(noxfile: ModuleType) -> None:
    session = Session(posargs=["packages/gowork-leader"])
    noxfile.tests(session)
    assert session.parts == []
    assert session.done[-1] == ("run", ("pytest", "packages/gowork-leader"))


def test_all_runs_the_tests_and_every_long_session(noxfile: ModuleType) -> None:
    session = Session()
    noxfile.all_(session)
    there = {name for name in LONG if hasattr(noxfile, name)}
    assert set(session.parts) == {"tests", *there}
    assert set(noxfile.LONGER) == there


def test_a_failure_is_noted_and_what_follows_runs(noxfile: ModuleType) -> None:
    failures: list[str] = []
    session = Session("one")
    for name in ("one", "two"):
        with noxfile.going_on(failures, name):
            session.run(name)
    assert [command for _, command in session.done] == [("one",), ("two",)]
    assert failures == ["one"]
