"""Each test gets a leader of its own, on free ports and an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RunningLeader, running_leader


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[RunningLeader]:
    with running_leader(tmp_path) as leader:
        yield leader
