"""The handler `container` with a real podman, where there is one that can run containers."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gowork.worker.testing import Outcome, Status, Switch, cancel, run_handler_async
from gowork_plugin_container import ContainerFailed, ContainerResult
from gowork_plugin_container.settings import ENGINE_VARIABLE, IMAGES_VARIABLE, NETWORKS_VARIABLE, PULL_VARIABLE

IMAGE = "localhost/gowork-test:1"
#: Podman's defaults ask for more open files and processes than a machine for tests may give.
LIMITS = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=512:512"]\n'


def image_of_busybox(busybox: str) -> bytes:
    """The files of an image that has busybox alone, as a tar archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for name in ("cat", "echo", "sh", "tail", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return archive.getvalue()


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """A podman with a store of its own, which has the image. The test is skipped where podman can't run it."""
    podman, busybox = shutil.which("podman"), shutil.which("busybox")
    if podman is None or busybox is None:
        pytest.skip("not on PATH: podman, or busybox for the image")
    # Podman's sockets need a short path. Without root, its files may have owners whose files others can't remove.
    with tempfile.TemporaryDirectory(prefix="gw-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        wrapper = folder / "podman"
        stores = f"--storage-driver vfs --root {folder}/store --runroot {folder}/run"
        reason = ""
        try:
            for runtime in ("", "--runtime runc"):
                (folder / "containers.conf").write_text(LIMITS)
                wrapper.write_text(
                    f"#!/bin/sh\nexport CONTAINERS_CONF={folder}/containers.conf\n"
                    f'exec {podman} {stores} --cgroup-manager cgroupfs {runtime} "$@"\n'
                )
                wrapper.chmod(0o755)
                import_ = [str(wrapper), "import", "-", IMAGE]
                subprocess.run(import_, input=image_of_busybox(busybox), capture_output=True, timeout=60)
                trying = [str(wrapper), "run", "--rm", "--network=none", "--pull=never", "--memory=64m", IMAGE, "true"]
                tried = subprocess.run(trying, capture_output=True, timeout=60)
                if tried.returncode == 0:
                    yield str(wrapper)
                    return
                reason = tried.stderr.decode(errors="replace").strip()[-300:]
            pytest.skip(f"podman runs no containers here: {reason}")
        finally:
            subprocess.run([str(wrapper), "rm", "--force", "--all"], capture_output=True, timeout=60)
            subprocess.run([str(wrapper), "rmi", "--force", "--all"], capture_output=True, timeout=60)


@pytest.fixture(autouse=True)
def settings(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings with which this podman runs its image."""
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    monkeypatch.setenv(IMAGES_VARIABLE, "localhost/*")
    monkeypatch.setenv(PULL_VARIABLE, "never")
    monkeypatch.delenv(NETWORKS_VARIABLE, raising=False)


async def attempt(*args: str, options: dict[str, Any] | None = None, **job: Any) -> Outcome:
    payload = {"image": IMAGE, "args": [*args], **job}
    imports = ["gowork_plugin_container.plugin"]
    return await run_handler_async("container", payload, imports=imports, patience=120, **(options or {}))


def left(engine: str) -> list[str]:
    """The containers that are there."""
    listed = subprocess.run([engine, "ps", "--all", "--quiet"], capture_output=True, check=True, timeout=60)
    return listed.stdout.decode().split()


async def test_podman_runs_a_container_without_network(engine: str) -> None:
    script = 'cat; echo "$WORD"; tail -n +3 /proc/net/dev; echo wrong >&2; exit 3'
    outcome = await attempt("sh", "-c", script, stdin="in\n", env={"WORD": "a b"}, check=False)
    result = outcome.result_as(ContainerResult)
    first, second, *interfaces = result.stdout.splitlines()
    assert (result.exit_code, first, second, result.stderr) == (3, "in", "a b", "wrong\n")
    assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
    assert left(engine) == []


async def test_podman_says_which_image_is_not_there(engine: str) -> None:
    outcome = await attempt("true", image="localhost/absent:1")
    assert outcome.failure is not None
    assert outcome.failure.message.startswith("the engine failed: ")
    assert "absent" in outcome.failure.message


async def test_podman_ends_a_container_that_takes_too_much_memory(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = await attempt("tail", "/dev/zero", memory_mib=32)
    assert isinstance(outcome.error, ContainerFailed)
    assert outcome.error.result.exit_code == 137
    assert left(engine) == []
    assert os.listdir(tmp_path) == [], "the worker's directory is not for the engine's files"


async def test_podman_removes_a_container_that_is_cancelled(engine: str) -> None:
    stop = Switch()
    running = asyncio.ensure_future(attempt("tail", "-f", "/dev/null", options={"faults": [cancel(on=stop)]}))
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(left, engine):
            pass
    stop.flip()
    outcome = await running
    assert (outcome.status, outcome.was_killed) == (Status.CANCELLED, False)
    assert left(engine) == []
