"""The rows of `gowork plugins`."""

from __future__ import annotations

from pathlib import Path

import pytest

from gowork.worker._authoring.listing import rows_of
from gowork.worker._core.selection import Selection


def test_a_plugin_of_which_a_part_is_at_fault_has_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text(
        "from gowork.worker import handler\n@handler\ndef good(): ...\n@handler\ndef bad(n: int):\n    yield n\n"
    )
    monkeypatch.chdir(tmp_path)
    (row,) = rows_of(Selection(plugins=(), imports=("half",)))
    assert (row.plugin, [handler.name for handler in row.handlers]) == ("half", ["good"])
    (error,) = row.errors
    assert "'bad' is a generator" in error
