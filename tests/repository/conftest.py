"""What the tests of benchmarks share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Has the modules of benchmarks at hand, and forgets them afterwards; their folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "path", sys.path[:])
    known = set(sys.modules)
    yield BENCHMARKS
    for name, module in [*sys.modules.items()]:
        if name not in known and str(getattr(module, "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]
