"""The fixtures, in runs of pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import pytest, sys

def pytest_sessionfinish(session):
    print("loaded:", *sorted(name for name in sys.modules if name.startswith("gowork.") or name in ("grpc", "asyncio")))
"""


def run(folder: Path, text: str, *arguments: str) -> str:
    """Runs the text as a test module, and returns what pytest has printed. Without arguments pytest-asyncio is off."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider --strict-markers -W error\n")
    path = folder / "test_it.py"
    path.write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-s", *(arguments or ("-p", "no:asyncio")), str(path)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False).stdout


def test_nothing_of_gowork_is_loaded_where_no_test_uses_it(tmp_path: Path) -> None:
    told = run(tmp_path, "def test_it():\n    pass\n")
    assert "1 passed" in told
    (loaded,) = [line for line in told.splitlines() if "loaded:" in line]
    assert "gowork" not in loaded
    assert "grpc" not in loaded


def test_a_handler_runs_with_the_options_of_the_markers(tmp_path: Path) -> None:
    (tmp_path / "tea.py").write_text(
        "from gowork.worker import Context, handler, lifespan\n"
        "@lifespan\n"
        "def kettle(state):\n"
        "    state.water += 1\n"
        "    yield\n"
        "@handler\n"
        "def brew(ctx: Context, cups: int) -> list:\n"
        "    ctx.cancelled.wait(60)\n"
        "    return [cups, ctx.state.water, ctx.id]\n"
    )
    told = run(
        tmp_path,
        "import pytest\n"
        "pytestmark = pytest.mark.gowork(imports=['tea'], state={'water': 3}, id='all')\n"
        "def test_plain(run_handler, fake_clock):\n"
        "    assert run_handler('brew', 2, clock=fake_clock).result == [2, 4, 'all']\n"
        "    assert fake_clock.now == 60\n"
        "@pytest.mark.gowork(id='mine')\n"
        "def test_nearer(run_handler):\n"
        "    assert run_handler('brew', 2).result == [2, 4, 'mine']\n"
        "    assert run_handler('brew', 2, id='own').result == [2, 4, 'own']\n",
    )
    assert "2 passed" in told


def test_async_tests_run_handlers(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        "import pytest\n"
        "from gowork.worker import handler\n"
        "@handler\n"
        "async def brew(cups: int) -> int:\n"
        "    return cups\n"
        "@pytest.mark.asyncio\n"
        "async def test_it(run_handler_async, gowork_cluster):\n"
        "    assert (await run_handler_async(brew, 2)).result == 2\n"
        "    assert gowork_cluster(handlers=[brew]).client.schedule(3, handler=brew).result() == 3\n",
        *("-o", "asyncio_default_fixture_loop_scope=function"),
    )
    assert "1 passed" in told


def test_a_cluster_ends_after_its_test(tmp_path: Path) -> None:
    told = run(
        tmp_path,
        "import threading\n"
        "def test_one(gowork_cluster):\n"
        "    assert gowork_cluster().workers == gowork_cluster().workers\n"
        "    assert len([t for t in threading.enumerate() if t.name == 'gowork-cluster']) == 2\n"
        "def test_two():\n"
        "    assert not [t for t in threading.enumerate() if t.name == 'gowork-cluster']\n",
    )
    assert "2 passed" in told


def test_importing_the_cluster_loads_no_grpc() -> None:
    code = "import sys, gowork.testing\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "gowork.testing" in loaded
    assert not {"grpc", "google.protobuf", "gowork.leader", "gowork.worker", "gowork.client"} & set(loaded)
