"""The examples of docs/embedding.md that need nothing but gowork. The others are for `nox -s embedding`."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gowork.testing import Cluster

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/embedding"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster(workers=0) as cluster:
        monkeypatch.setenv("GOWORK_LEADER", cluster.address)
        monkeypatch.setenv("WORKER_LEADER", cluster.worker_address)
        yield cluster


@pytest.mark.parametrize("name", ["async_program.py", "threaded_program.py"])
def test_a_program_with_a_worker_beside_its_work_runs_its_own_handler(cluster: Cluster, name: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr


def test_a_script_is_a_worker_with_handlers_of_its_own(cluster: Cluster) -> None:
    with subprocess.Popen([sys.executable, EXAMPLES / "script.py"]) as process:
        try:
            assert cluster.client.schedule(21, handler="double").result(int, timeout=120) == 42
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_the_page_shows_each_example_and_each_is_run() -> None:
    page = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"examples/embedding/([\w.]+)", page))
    assert shown == {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    tests = Path(__file__).read_text(encoding="utf-8")
    tests += (ROOT / "tests/embedding/test_embedding_frameworks.py").read_text(encoding="utf-8")
    assert [name for name in shown if Path(name).stem not in tests] == []
