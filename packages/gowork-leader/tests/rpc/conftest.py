"""Each test gets a leader of its own: it starts in a few hundredths of a second."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from leader_serving import ServedLeader, serving


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[ServedLeader]:
    async with serving(tmp_path) as leader:
        yield leader
