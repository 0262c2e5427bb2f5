"""README's Python is run, so that it stays true."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from gowork.worker._core.handlers import options_of
from gowork.worker.testing import run_handler

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

    assert run_handler(names["brew"], {"customer": "Ada", "cups": 2}).result == {"for": "Ada", "served": "**"}
    (tests,) = [block for block in BLOCKS if "run_handler" in block]
    exec(compile(tests, "README.md", "exec"), names)
    found = [name for name in names if name.startswith("test_")]
    assert len(found) == 2
    for name in found:
        names[name]()


def test_names_that_the_readme_imports_are_there() -> None:
    import gowork.worker

    for names in re.findall(r"^from gowork\.worker import (.+)$", README, re.MULTILINE):
        for name in names.split(", "):
            assert name in gowork.worker.__all__
