"""The list of planted edits fits the tree, so that `nox -s mutants` can plant each of them."""

from __future__ import annotations

import contextlib
import datetime
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/mutants"))

from run_mutants import FAILED, PASSED, Mutant, judge, read_mutants, rotated  # noqa: E402

MUTANTS = read_mutants()


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_an_edit_changes_one_place_and_names_a_test_that_is_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert mutant.rule.endswith(".")
    path, *names = mutant.test.split("::")
    tests = (ROOT / path).read_text(encoding="utf-8")
    for name in names:
        assert f" {name.partition('[')[0]}" in tests


def test_each_edit_has_its_turn() -> None:
    count, first = 10, datetime.date(2026, 1, 1)
    days = range(len(MUTANTS) // count + 1)
    seen = {mutant.name for day in days for mutant in rotated(MUTANTS, count, first + datetime.timedelta(day))}
    assert seen == {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize(
    ("code", "killed", "told"),
    [
        (FAILED, True, "its test"),
        (None, True, "its test, which took more than 9 s"),
        (-signal.SIGSEGV, True, "its test, whose process ended with SIGSEGV"),
        (-signal.SIGKILL, False, "pytest ended with -9: told"),
        (4, False, "pytest ended with 4: told"),
        (PASSED, False, "survived its test and packages/gowork-client/tests"),
    ],
)
def test_an_edit_is_noticed_when_its_test_fails_hangs_or_crashes(code: int | None, killed: bool, told: str) -> None:
    class Tree:
        @contextlib.contextmanager
        def edited(self, mutant: Mutant) -> Any:
            yield

        def run(self, tests: list[str], seconds: float, *options: str) -> tuple[int | None, str]:
            return code, "told"

    tree: Any = Tree()
    test = "packages/gowork-client/tests/test_client_ends.py::test"
    verdict = judge(tree, Mutant("a", "It is.", "packages/gowork-client/src/a.py", "x", "y", test), 9.0)
    assert (verdict.killed, verdict.told) == (killed, told)
