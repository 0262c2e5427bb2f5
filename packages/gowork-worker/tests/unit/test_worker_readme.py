"""README's Python is run, so that it stays true."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from gowork.worker._core.handlers import options_of

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_every_block_is_python(block: str) -> None:
    assert ast.parse(block).body


def test_first_handler_of_the_readme_works(tmp_path: Path) -> None:
    path = tmp_path / "hello.py"
    path.write_text(BLOCKS[0])
    names = runpy.run_path(str(path), run_name="hello")
    options = options_of(names["brew"])
    assert options is not None
    assert options.time_limit_ms == 30_000

    class Told:
        def progress(self, fraction: float, message: str) -> None:
            assert 0 <= fraction <= 1

    assert names["brew"](Told(), names["Order"]("Ada", 2)) == {"for": "Ada", "served": "**"}


def test_names_that_the_readme_imports_are_there() -> None:
    import gowork.worker

    for names in re.findall(r"^from gowork\.worker import (.+)$", README, re.MULTILINE):
        for name in names.split(", "):
            assert name in gowork.worker.__all__
