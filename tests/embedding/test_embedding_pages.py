"""The pages on Django and FastAPI: their files, commands and tests, in order, with the servers that they start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from site_code import blocks
from site_scripts import script
from test_e2e_readme import run

DOCS = Path(__file__).parents[2] / "docs"
#: How long a page may take, in seconds.
PAGE_SECONDS = 280.0
#: pytest with the settings of a project of its own, not those of this repository.
PYTEST = "python3 -m pytest -p no:cacheprovider -p no:asyncio -c /dev/null --rootdir ."


@pytest.mark.tool("curl")
@pytest.mark.parametrize(
    ("page", "then", "shown"),
    [
        pytest.param(
            "django.md",
            "curl -s -X POST 127.0.0.1:8000/add/Ada\ngowork wait confirm-order-1\ncurl -s 127.0.0.1:8000/show/1\n",
            ['{"order": 1}', '"confirmed"', '{"customer": "Ada", "confirmed": true}'],
            id="django",
        ),
        pytest.param(
            "fastapi.md",
            "",
            [
                '{"task":"report-2026-11"}',
                '"3 pages of 2026-11"',
                '"status":"COMPLETED"',
                '"result":"3 pages of 2026-11"',
                "1 passed",
            ],
            id="fastapi",
        ),
    ],
)
def test_the_page_goes_as_written(tmp_path: Path, page: str, then: str, shown: list[str]) -> None:
    found = blocks(DOCS / page)
    text = script(found, {"python3 -m pytest": PYTEST})
    # What the page says in words is done while its servers run.
    text = text.replace("trap - EXIT", f"{then}trap - EXIT")
    # uvicorn ends with the signal that it was sent, after all that it does at its end.
    own = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONDONTWRITEBYTECODE=1; ended=143"
    out = run(f"{own}\n{text}", tmp_path, PAGE_SECONDS)
    assert [each for each in shown if each not in out] == []
