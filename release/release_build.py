"""Builds the sdist and the wheel of a package so that everybody who builds the same commit gets the same bytes.

What git does not know is not built, every file has the time of the commit, and the wheel is made from the sdist. Each
package is built twice, in folders of different names, and the results are compared.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from release_papers import Package, ReleaseError, git

#: The file that names what was built and its digests, as `sha256sum --check` reads it.
SUMS = "SHA256SUMS"
#: How long one build may take, in seconds.
_BUILD_SECONDS_MAX = 300.0


def build(root: Path, package: Package, out: Path, scratch: Path) -> list[Path]:
    """Builds a package twice, and keeps the files and their digests.

    Args:
        root: the repository.
        package: what is built.
        out: a folder of this release alone; what it has is removed.
        scratch: a folder for what is in between.

    Returns:
        The sdist and the wheel in `out`.

    Raises:
        ReleaseError: a build failed, or the two differ.
    """
    seconds = git(root, "log", "-1", "--format=%ct").strip()
    built = [_built_once(root, package, scratch / name, seconds) for name in ("first", "and-second")]
    one, other = ({path.name: digest(path) for path in paths} for paths in built)
    if one != other:
        differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        raise ReleaseError(f"two builds of {package.name} differ in {', '.join(differing)}; compare with diffoscope")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    kept = [Path(shutil.copy(path, out)) for path in built[0]]
    (out / SUMS).write_text("".join(f"{one[path.name]}  {path.name}\n" for path in kept))
    return kept


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sums_of(folder: Path) -> dict[str, str]:
    """What was built into a folder: {file: its digest}.

    Raises:
        ReleaseError: nothing was, or a file is missing or differs from what was built.
    """
    listed = folder / SUMS
    if not listed.is_file():
        raise ReleaseError(f"{listed} is missing; build with `nox -s release -- PACKAGE`")
    lines = [line.split() for line in listed.read_text().splitlines()]
    sums = {name: told for told, name in lines}
    if not sums:
        raise ReleaseError(f"{listed} names no file; build again with `nox -s release -- PACKAGE`")
    for name, told in sums.items():
        path = folder / name
        if not path.is_file() or digest(path) != told:
            raise ReleaseError(f"{path} is not what was built; build again with `nox -s release -- PACKAGE`")
    return sums


def _built_once(root: Path, package: Package, folder: Path, seconds: str) -> list[Path]:
    """The sdist and the wheel of one build in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    source, made = folder / package.name, folder / "made"
    where = package.folder.relative_to(root)
    # Those that git ignores, such as caches, are never part of a release.
    for name in git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", str(where)).split("\0"):
        if name and (root / name).is_file():
            target = source / Path(name).relative_to(where)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, target)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)],
        env={**os.environ, "SOURCE_DATE_EPOCH": seconds, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"{package.name} can't be built:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return sorted(made.iterdir())
