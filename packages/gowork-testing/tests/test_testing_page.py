"""The code of docs/testing.md and of README is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_code_of_the_pages_is_run(tmp_path: Path) -> None:
    files = {block.partition("\n")[0].removeprefix("# "): block for block in blocks_of(ROOT / "docs/testing.md")}
    for number, block in enumerate(blocks_of(ROOT / "packages/gowork-testing/README.md")):
        files[f"test_readme_{number}.py"] = block
    for name, text in files.items():
        assert re.fullmatch(r"(test_)?[a-z_0-9]+\.py", name), f"{name}: the first line of a block is its file's name"
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:cacheprovider -p no:asyncio --strict-markers -W error\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    tests = sum(text.count("\ndef test_") for text in files.values())
    assert tests >= 12
    assert f"{tests} passed" in done.stdout, done.stdout
