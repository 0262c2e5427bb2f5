"""The code of docs/changing-payloads.md is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs/changing-payloads.md"


def test_the_code_of_the_page_is_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n# ([a-z_]+\.py)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert {name for name, _ in blocks} == {"versions.py", "test_adding.py", "test_renaming.py"}
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:asyncio -W error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
