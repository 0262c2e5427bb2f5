"""Installs the wheel of a package, with those of its siblings that it needs and no others, and tries it.

Each environment is new. One has the lowest versions that the package allows with the oldest Python, another the newest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from release_papers import Package, ReleaseError
from release_siblings import closure_of
from release_weights import Weight, weigh

#: A program for each package, in the folder beside this file; plugins share one. It runs in the new environment.
SMOKE = Path(__file__).with_name("smoke")
#: The oldest Python that the packages allow.
OLDEST_PYTHON = "3.11"
#: How long an environment may take to be made, and a package to be tried, in seconds.
_INSTALL_SECONDS_MAX = 900.0
_TRY_SECONDS_MAX = 180.0
#: Variables of this process that would let the new environment see other packages, or gowork other settings.
_HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GOWORK_")


def wanted(package: Package, known: Mapping[str, Package], wheels: Mapping[str, Path]) -> list[str]:
    """What is installed to have a package alone: its wheel and those of its siblings, each by its path.

    Args:
        package: the package.
        known: all packages of the repository.
        wheels: {package: its wheel}.
    """
    closure = sorted(closure_of(package, known).items())
    named = {name: f"{name}[{','.join(sorted(extras))}]" if extras else name for name, extras in closure}
    return [f"{line} @ {wheels[name].resolve().as_uri()}" for name, line in named.items()]


def try_package(
    package: Package, known: Mapping[str, Package], wheels: Mapping[str, Path], folder: Path, newest_python: str
) -> Weight:
    """Installs a package alone, once with the lowest and once with the newest versions of all that it needs.

    Returns:
        What it weighs with the newest.

    Raises:
        ReleaseError: it can't be installed, or what it promises does not work.
    """
    requirements = wanted(package, known, wheels)
    for name, python, options in (
        ("lowest", OLDEST_PYTHON, ["--resolution", "lowest-direct"]),
        ("newest", newest_python, ["--upgrade"]),
    ):
        home = folder / f"{package.name}-{name}"
        install(home, python, [*options, *requirements])
        try_installed(package, home, folder / f"{package.name}-{name}-work")
    return weigh(folder / f"{package.name}-newest")


def install(home: Path, python: str, arguments: Sequence[str]) -> None:
    """Makes an environment, with this Python, that has what uv is asked for."""
    shutil.rmtree(home, ignore_errors=True)
    run([sys.executable, "-m", "uv", "venv", "--quiet", "--python", python, str(home)], _INSTALL_SECONDS_MAX)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python_of(home)), *arguments]
    run(command, _INSTALL_SECONDS_MAX)


def try_installed(package: Package, home: Path, folder: Path) -> None:
    """Runs the package's program in an environment that has it, in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = "gowork_plugin" if package.name.startswith("gowork-plugin-") else package.name.replace("-", "_")
    program = SMOKE / f"smoke_{name}.py"
    run([str(python_of(home)), "-I", "-W", "error", str(program), package.name], _TRY_SECONDS_MAX, folder)


def python_of(home: Path) -> Path:
    """The Python of an environment."""
    return home / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def run(command: Sequence[str], seconds: float, folder: Path | None = None) -> None:
    """Runs a program to its end.

    Raises:
        ReleaseError: it failed, with what it printed.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
