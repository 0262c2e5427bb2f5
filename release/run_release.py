"""Checks, builds and tries packages before they are published: `python3 release/run_release.py gowork-leader`.

    --rehearse        asks for no tag, no date and no clean tree; without names, rehearses all packages
    --out DIR         where each package gets a folder with its sdist, its wheel and SHA256SUMS
    --newest PYTHON   the Python of the environment with the newest versions; this one when left out

It publishes nothing. `run_publish.py` does, and takes what this has left in DIR.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from release_build import build
from release_install import install, python_of, try_package
from release_papers import Package, ReleaseError, faults, faults_of_rehearsal, package_of, packages
from release_siblings import closure_of
from release_weights import faults_of_table, table

ROOT = Path(__file__).resolve().parents[1]
#: The packages that speak to processes of other versions, or read what these have stored.
SPEAKING = frozenset({"gowork-base", "gowork-client", "gowork-leader", "gowork-proto", "gowork-worker"})
#: The tests that mix a version with the one before, whose wheels and store are kept: the wire both ways, and the store.
MIXTURES = "tests/compat"
#: The page whose table says what each package weighs.
WEIGHTS = ROOT / "docs/releases.md"
#: What these tests need beside the packages.
MIXTURES_NEED = ("psutil", "pytest", "pytest-asyncio", "pytest-timeout", "trustme")
MIXTURES_FILES = ("test_compat_versions.py", "test_compat_store.py", "test_compat_dialled.py")
MIXTURES_SETTINGS = f"""[pytest]
addopts = --import-mode=importlib
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
markers = tool
pythonpath = {MIXTURES}
timeout = 300
"""
_MIXTURES_SECONDS_MAX = 1_800.0


def main(arguments: Sequence[str]) -> int:
    """Releases the packages that are named, up to publishing them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "build/release")
    parser.add_argument("--newest", default=sys.executable)
    options = parser.parse_args(arguments)
    known = packages(ROOT)
    if not options.packages and not options.rehearse:
        parser.error("name a package, or give --rehearse to rehearse all of them")
    try:
        chosen = [package_of(ROOT, name) for name in options.packages or known]
        check_papers(chosen, rehearse=options.rehearse)
        with tempfile.TemporaryDirectory(prefix="gowork-release-") as name:
            release(chosen, options.out.resolve(), Path(name), options.newest)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check_papers(chosen: Sequence[Package], *, rehearse: bool) -> None:
    """Checks tag, version, changelog and tree of each package, and tells all that is wrong at once.

    Raises:
        ReleaseError: something is.
    """
    found = [
        f"{package.name}: {fault}"
        for package in chosen
        for fault in (faults_of_rehearsal(package) if rehearse else faults(ROOT, package))
    ]
    if found:
        raise ReleaseError("\n".join(found))


def release(chosen: Sequence[Package], out: Path, scratch: Path, newest: str) -> None:
    """Builds the packages and the siblings that they need, and tries each package."""
    known = packages(ROOT)
    wheels: dict[str, Path] = {}
    kept = {package.name for package in chosen}
    # Leader, client and worker talk to those of the version before.
    needed = {*SPEAKING, "gowork-cli"} if kept & SPEAKING else set()
    for name in sorted(needed.union(*(closure_of(package, known) for package in chosen))):
        # What is not released itself is built to try the rest with, and not kept for publishing.
        folder = (out if name in kept else scratch / "siblings") / f"{name}-{known[name].version}"
        built = build(ROOT, known[name], folder, scratch)
        (wheels[name],) = [path for path in built if path.suffix == ".whl"]
        say(f"{name} {known[name].version}: built twice, the same bytes")
    weights = {}
    for package in chosen:
        weights[package.name] = try_package(package, known, wheels, scratch, newest)
        say(f"{package.name} {package.version}: works alone, with the lowest and with the newest dependencies")
    if kept & SPEAKING:
        mix(wheels, scratch)
        say("old and new clients, leaders and workers work together, and the old store opens")
    say(table(weights))
    wrong = list(faults_of_table(WEIGHTS.read_text(encoding="utf-8"), weights))
    if wrong:
        raise ReleaseError("\n".join([f"the table of {WEIGHTS} must be measured again, as above:", *wrong]))
    for package in chosen:
        say(f"{package.name} {package.version}: ready in {out / f'{package.name}-{package.version}'}")


def mix(wheels: dict[str, Path], scratch: Path) -> None:
    """Runs the tests of mixed versions on the wheels, in the place of the work tree's packages.

    Raises:
        ReleaseError: a test fails.
    """
    home = scratch / "mixtures"
    install(home, sys.executable, [*MIXTURES_NEED, *(str(path) for path in wheels.values())])
    # A copy beside no source, so that nothing but the wheels can be imported.
    tree = scratch / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT / MIXTURES, tree / MIXTURES, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "conftest.py", tree)
    (tree / "pytest.ini").write_text(MIXTURES_SETTINGS)
    files = [f"{MIXTURES}/{name}" for name in MIXTURES_FILES]
    command = [str(python_of(home)), "-m", "pytest", "--quiet", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=_MIXTURES_SECONDS_MAX, check=False)
    if done.returncode:
        raise ReleaseError(
            f"the version before and this one don't go together:\n{done.stdout[-8000:]}{done.stderr[-2000:]}"
        )


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
