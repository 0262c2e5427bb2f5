"""One leader, and one folder for its log, for all tests of a module."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from clusters import RunningLeader, kill, start_leader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def leader(folder: Path) -> Iterator[RunningLeader]:
    leader = start_leader(folder)
    yield leader
    kill(leader.process)
