"""Two builds of a commit give the same bytes, and what is published is what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from release_build import SUMS, _built_once, build, digest, sums_of
from release_papers import Package, ReleaseError, package_of

ROOT = Path(__file__).parents[2]
#: The time of the commit from which the tests build, in seconds of Unix.
COMMITTED_SECONDS = 1_700_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with gowork-all, and a file in its folder that git ignores."""
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "packages/gowork-all", root / "packages/gowork-all", ignore=shutil.ignore_patterns("__py*"))
    (root / ".gitignore").write_text("*.key\n")
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
    env = {**os.environ, "GIT_COMMITTER_DATE": f"@{COMMITTED_SECONDS} +0000"}
    for command in (["init"], ["add", "--all"], ["commit", "-m", "Begin"]):
        subprocess.run(["git", *identity, "-C", str(root), *command], check=True, capture_output=True, env=env)
    (root / "packages/gowork-all/src/gowork/all/own.key").write_text("secret")
    return root


@pytest.fixture
def package(root: Path) -> Package:
    return package_of(root, "gowork-all")


def test_a_commit_gives_the_same_sdist_and_wheel_wherever_and_whenever_it_is_built(
    root: Path, package: Package, tmp_path: Path
) -> None:
    sdist, wheel = sorted(build(root, package, tmp_path / "out", tmp_path / "scratch"), key=lambda path: path.suffix)
    assert (sdist.name, wheel.name) == (
        f"gowork_all-{package.version}.tar.gz",
        f"gowork_all-{package.version}-py3-none-any.whl",
    )
    sums = sums_of(tmp_path / "out")
    assert sums == {path.name: digest(path) for path in (wheel, sdist)}
    with tarfile.open(sdist) as archive:
        assert {member.mtime for member in archive} == {COMMITTED_SECONDS}
        names = archive.getnames()
    assert f"gowork_all-{package.version}/CHANGELOG.md" in names
    assert [name for name in [*names, *zipfile.ZipFile(wheel).namelist()] if name.endswith(".key")] == []
    # Another clone with other times and rights of files.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True, capture_output=True)
    for path in clone.glob("packages/**/*.md"):
        os.utime(path, (0, 0))
        path.chmod(0o600)
    again = _built_once(clone, package_of(clone, "gowork-all"), tmp_path / "again", str(COMMITTED_SECONDS))
    assert {path.name: digest(path) for path in again} == sums


def test_builds_that_differ_are_refused_with_the_names_of_the_files(
    root: Path, package: Package, tmp_path: Path
) -> None:
    # A package whose file depends on the folder that it is built in.
    with (package.folder / "pyproject.toml").open("a") as file:
        file.write('\n[tool.hatch.build.targets.wheel.hooks.custom]\npath = "hook.py"\n')
    (package.folder / "hook.py").write_text(
        "import os\n"
        "from hatchling.builders.hooks.plugin.interface import BuildHookInterface\n"
        "class Hook(BuildHookInterface):\n"
        "    def initialize(self, version, build_data):\n"
        "        made = os.path.join(self.root, 'src/gowork/all/made.txt')\n"
        "        open(made, 'w').write(os.urandom(8).hex())\n"
    )
    with pytest.raises(ReleaseError, match=r"^two builds of gowork-all differ in gowork_all-\S+\.whl; compare"):
        build(root, package, tmp_path / "out", tmp_path / "scratch")
    assert not (tmp_path / "out").exists()


def test_a_package_that_does_not_build_says_why(root: Path, package: Package, tmp_path: Path) -> None:
    (package.folder / "README.md").unlink()
    with pytest.raises(ReleaseError, match=r"(?s)^gowork-all can't be built:.*README\.md"):
        build(root, package, tmp_path / "out", tmp_path / "scratch")


def test_what_is_not_what_was_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"{SUMS} is missing; build with"):
        sums_of(tmp_path)
    (tmp_path / SUMS).write_text("")
    with pytest.raises(ReleaseError, match=f"{SUMS} names no file"):
        sums_of(tmp_path)
    (tmp_path / "a.whl").write_bytes(b"built")
    (tmp_path / SUMS).write_text(f"{digest(tmp_path / 'a.whl')}  a.whl\n")
    assert list(sums_of(tmp_path)) == ["a.whl"]
    (tmp_path / "a.whl").write_bytes(b"changed")
    with pytest.raises(ReleaseError, match="a.whl is not what was built"):
        sums_of(tmp_path)
    (tmp_path / "a.whl").unlink()
    with pytest.raises(ReleaseError, match="a.whl is not what was built"):
        sums_of(tmp_path)
