"""Parents that wait for their children lend their slots: every family ends, however few slots there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clusters import RunningLeader, start_worker, stopped_cleanly

from gowork.client import Client

HANDLERS = Path(__file__).parent


FAMILIES = [("plain", 3, 15), ("on_loop", 3, 15), ("isolated", 2, 3)]


@pytest.mark.longer
@pytest.mark.parametrize("arguments", [["--slots=2", "--runners=1"], ["--slots=4", "--runners=2"]])
def test_parents_that_wait_for_their_children_never_stand_still(
    leader: RunningLeader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HANDLERS), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("GOWORK_TEST_SCHEDULER", leader.scheduler)
    worker = start_worker(tmp_path, leader, "--import=waiting_handlers", *arguments)
    with stopped_cleanly(worker), Client(leader.scheduler) as client:
        wanted = {client.schedule(depth, handler=name): result for name, depth, result in FAMILIES * 2}
        wanted |= {client.schedule(1, handler="plain"): 3 for _ in range(50)}
        assert {task.attempts_used for task in client.wait(wanted, timeout=180)} == {1}
        assert [parent.result(int) for parent in wanted] == list(wanted.values())
    assert "keeps its slot" not in (tmp_path / "gowork-worker.log").read_text()
