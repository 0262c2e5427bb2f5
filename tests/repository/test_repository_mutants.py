"""The list of planted edits fits the tree, so that `nox -s mutants` can plant each of them."""

from __future__ import annotations

import datetime
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/mutants"))

from run_mutants import Mutant, read_mutants, rotated  # noqa: E402

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
