"""Makes the environments of the systems that gowork is measured beside, once, with the versions of adapters/pins.toml.

Each is a virtual environment of its own below a folder that is kept between runs. Its name has a digest of what it
holds, so that another version gets another one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ADAPTERS = Path(__file__).parent / "adapters"
#: How long the installation of one system may take, in seconds.
INSTALL_SECONDS = 600.0
#: The file that an environment has when it is complete.
_COMPLETE = "complete"


class LeftOutError(Exception):
    """A system can't be measured; the message says why, in one line."""


@dataclass(frozen=True)
class System:
    """A task system, and what its adapter needs."""

    name: str
    title: str
    #: "redis", "postgresql", or nothing where it needs no server.
    server: str
    #: Where its tasks are.
    store: str
    #: What its environment holds, each in one version; nothing for gowork, which has the environment of the benchmarks.
    requirements: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return self.requirements[0].rpartition("==")[2] if self.requirements else ""

    @property
    def adapter(self) -> Path:
        return ADAPTERS / f"{self.name}_adapter.py"


def peers(pins: Path = ADAPTERS / "pins.toml") -> list[System]:
    """The systems that `pins` names."""
    return [
        System(name, pinned["title"], pinned["server"], pinned["store"], tuple(pinned["requirements"]))
        for name, pinned in tomllib.loads(pins.read_text()).items()
    ]


def kept_folder() -> Path:
    """Where environments are kept: in the environment that runs the benchmarks, so that they go when it goes."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "peers"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gowork-bench"


def environment(system: System, folder: Path) -> Path:
    """The Python of this system's environment, which is made if it is not there.

    Raises:
        LeftOutError: it can't be installed.
    """
    if not system.requirements:
        return Path(sys.executable)
    held = "\n".join([sys.version, *system.requirements])
    home = folder / f"{system.name}-{hashlib.sha256(held.encode()).hexdigest()[:12]}"
    python = home / "bin/python"
    # Its Python is a link, whose end may be gone by now.
    if (home / _COMPLETE).exists() and python.exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    uv = shutil.which("uv")
    make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
    install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    home.parent.mkdir(parents=True, exist_ok=True)
    for command in ([*make, str(home)], [*install, "--quiet", *system.requirements]):
        _run(command)
    (home / _COMPLETE).touch()
    return python


def _run(command: list[str]) -> None:
    # Not in the environment of the benchmarks.
    variables = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            command,
            env=variables,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeftOutError(f"it can't be installed: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"{command[0]} ended with {done.returncode}").splitlines()
        raise LeftOutError(f"it can't be installed: {said[-1].strip()}")
