"""Each test gets a leader of its own, on free ports and an empty store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import RunningLeader, start_leader, stopped_cleanly


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[RunningLeader]:
    leader = start_leader(tmp_path)
    with stopped_cleanly(leader.process):
        yield leader
