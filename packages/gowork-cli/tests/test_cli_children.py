"""The processes that `gowork up` starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from gowork.cli.processes import Nursery

#: How long a child may take to be ready, in seconds.
READY_S = 30


async def test_a_file_in_the_working_directory_does_not_stand_in_for_gowork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gowork.py").write_text("raise RuntimeError('this is a file of the user')")
    monkeypatch.chdir(tmp_path)
    code = "import json, gowork.cli as cli; print(json.dumps({'version': cli.__version__}))"
    async with Nursery() as nursery:
        child = await nursery.start("a child", ["-c", code])
        assert await child.ready("version", READY_S)
