"""Uploads what `release_build` made to an index, once.

A file that the index has with the same digest is left alone, so a publication that was cut short may be tried again. A
file that the index has with another digest is refused, and so is one that differs from what was built. Nothing is
uploaded before all of this is checked, and before the index has the packages of this repository that it needs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import packaging.utils
from release_build import sums_of
from release_index import Index
from release_papers import Package, ReleaseError, packages
from release_siblings import siblings_of

#: How long an upload may take, in seconds.
_UPLOAD_SECONDS_MAX = 600.0


def publish(root: Path, package: Package, folder: Path, index: Index) -> list[str]:
    """Uploads the files of a release that the index does not have.

    Args:
        root: the repository.
        package: what is released.
        folder: where `release_build.build` has put its files.
        index: where they go.

    Returns:
        The names of the files that were uploaded.

    Raises:
        ReleaseError: a file is not what was built, or is not of this version; the index has another file under the
            name, or lacks a package that this one needs; or the upload failed.
    """
    sums = sums_of(folder)
    strangers = [name for name in sums if not _is_of(name, package)]
    if strangers:
        raise ReleaseError(f"{', '.join(strangers)} is no file of {package.name} {package.version}; build that again")
    missing = list(_missing(root, package, index))
    if missing:
        raise ReleaseError(f"{index.simple_url} lacks {', '.join(missing)}; publish these first")
    there = index.digests(package.name)
    others = sorted(name for name, told in sums.items() if there.get(name, told) != told)
    if others:
        told = ", ".join(others)
        raise ReleaseError(f"the index has another {told}; a version is published once, so take a new version")
    fresh = sorted(name for name in sums if name not in there)
    if fresh:
        _upload([folder / name for name in fresh], index)
    return fresh


def _is_of(name: str, package: Package) -> bool:
    """Whether a file's name is that of an sdist or a wheel of this version."""
    try:
        if name.endswith(".whl"):
            distribution, version, *_ = packaging.utils.parse_wheel_filename(name)
        else:
            distribution, version = packaging.utils.parse_sdist_filename(name)
    except (packaging.utils.InvalidWheelFilename, packaging.utils.InvalidSdistFilename):
        return False
    return (distribution, str(version)) == (package.name, package.version)


def _missing(root: Path, package: Package, index: Index) -> Iterator[str]:
    """The packages of this repository that the package needs, and the index lacks in a version that will do."""
    known = packages(root)
    for requirement in siblings_of(package, known):
        if not any(requirement.specifier.contains(version) for version in index.versions(requirement.name)):
            yield str(requirement)


def _upload(paths: list[Path], index: Index) -> None:
    # uv gets a token of its own for a trusted publisher, where GitHub lets it: https://docs.pypi.org/trusted-publishers/
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "uv",
            "publish",
            "--publish-url",
            index.upload_url,
            *index.credentials,
            *map(str, paths),
        ],
        capture_output=True,
        text=True,
        timeout=_UPLOAD_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise ReleaseError(f"the upload to {index.upload_url} failed:\n{done.stderr[-4000:]}")
