"""In which order the tests run: see conftest.py at the top of the repository."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def conftest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gowork_conftest", ROOT / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("hands", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [[], ["long"], ["a", "b", "long c", "d", "e", "long f", "long g", "h"], list("abc")])
def test_every_process_begins_with_its_share_of_the_long_tests(
    conftest: ModuleType, items: list[str], hands: int
) -> None:
    ordered = conftest.dealt(items, lambda item: item.startswith("long"), hands)
    assert sorted(ordered) == sorted(items)
    for hand in range(hands):
        # As xdist divides them.
        size = len(ordered) // (hands - hand)
        part, ordered = ordered[:size], ordered[size:]
        are_long = [item.startswith("long") for item in part]
        assert are_long == sorted(are_long, reverse=True)


def test_the_folders_of_long_tests_are_there(conftest: ModuleType) -> None:
    assert [folder for folder in conftest.LONG if not (ROOT / folder).is_dir()] == []
