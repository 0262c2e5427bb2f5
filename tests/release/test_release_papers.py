"""A package is released only when its tag, version and changelog agree, from a commit without changes beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from release_papers import ReleaseError, faults, faults_of_rehearsal, package_of, packages

ROOT = Path(__file__).parents[2]
CHANGELOG = "# Changelog\n\n## [1.2.0] - 2026-11-30\n\n### Added\n\n- All.\n\n## [1.1.0] - 2026-01-01\n\n- Some.\n"


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one package, whose version 1.2.0 can be released."""
    folder = tmp_path / "packages/gowork-tried"
    (folder / "src/gowork/tried").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "gowork-tried"\nversion = "1.2.0"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    (folder / "src/gowork/tried/_version.py").write_text('"""The version."""\n\n__version__ = "1.2.0"\n')
    git(tmp_path, "init")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "-m", "Begin")
    git(tmp_path, "tag", "gowork-tried-v1.2.0")
    return tmp_path


def found(root: Path) -> list[str]:
    return faults(root, package_of(root, "gowork-tried"))


def commit(root: Path) -> None:
    git(root, "commit", "--all", "-m", "Change")
    git(root, "tag", "--force", "gowork-tried-v1.2.0")


def test_a_commit_whose_papers_agree_is_released(root: Path) -> None:
    assert found(root) == []


def test_a_commit_without_the_tag_is_not_released(root: Path) -> None:
    git(root, "tag", "--delete", "gowork-tried-v1.2.0")
    git(root, "tag", "gowork-tried-v1.1.9")
    git(root, "tag", "gowork-other-v1.2.0")
    (fault,) = found(root)
    assert fault.startswith("the commit has no tag gowork-tried-v1.2.0, and it has gowork-tried-v1.1.9; `git tag")


def test_a_version_is_released_from_one_commit_alone(root: Path) -> None:
    git(root, "commit", "--allow-empty", "-m", "Later")
    (fault,) = found(root)
    assert fault.startswith("the tag gowork-tried-v1.2.0 is at another commit")


@pytest.mark.parametrize("change", ["changed", "added"])
def test_a_work_tree_with_changes_is_not_released(root: Path, change: str) -> None:
    name = {"changed": "CHANGELOG.md", "added": "notes.md"}[change]
    with (root / "packages/gowork-tried" / name).open("a") as file:
        file.write("\nMore.\n")
    (fault,) = found(root)
    assert fault.startswith("the work tree differs from its commit:")
    assert name in fault


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[1.2.0] - 2026-11-30", "[1.3.0] - 2026-11-30", "the newest section of CHANGELOG.md is 1.3.0, and pyproject"),
        ("[1.2.0] - 2026-11-30", "[1.2.0] - Unreleased", "the section 1.2.0 of CHANGELOG.md has no date but"),
        ("[1.2.0] - 2026-11-30", "[1.2.0] - soon", "the section 1.2.0 of CHANGELOG.md has no date but 'soon'"),
        ("### Added\n\n- All.\n\n", "", "the section 1.2.0 of CHANGELOG.md is empty"),
        ("## [", "## ", "CHANGELOG.md has no section"),
    ],
)
def test_a_changelog_that_does_not_tell_of_the_version_keeps_it_from_being_released(
    root: Path, old: str, new: str, told: str
) -> None:
    path = root / "packages/gowork-tried/CHANGELOG.md"
    path.write_text(path.read_text().replace(old, new))
    commit(root)
    (fault,) = found(root)
    assert fault.startswith(told)


def test_a_module_that_tells_another_version_keeps_it_from_being_released(root: Path) -> None:
    path = root / "packages/gowork-tried/src/gowork/tried/_version.py"
    path.write_text('__version__ = "1.1.0"\n')
    commit(root)
    (fault,) = found(root)
    assert fault.endswith("_version.py has the version 1.1.0, and pyproject.toml has 1.2.0; make them equal")


def test_a_rehearsal_asks_for_all_but_the_tag_and_the_date(root: Path) -> None:
    git(root, "tag", "--delete", "gowork-tried-v1.2.0")
    path = root / "packages/gowork-tried/CHANGELOG.md"
    path.write_text(CHANGELOG.replace("2026-11-30", "Unreleased"))
    package = package_of(root, "gowork-tried")
    assert faults_of_rehearsal(package) == []
    path.write_text(CHANGELOG.replace("2026-11-30", "soon"))
    assert len(faults_of_rehearsal(package)) == 1


def test_a_package_that_is_not_there_is_named_with_those_that_are(root: Path) -> None:
    with pytest.raises(ReleaseError, match="'gowork-tired' is no package of this repository; it has gowork-tried$"):
        package_of(root, "gowork-tired")


@pytest.mark.parametrize("name", sorted(packages(ROOT)))
def test_each_package_would_pass_a_rehearsal(name: str) -> None:
    assert faults_of_rehearsal(package_of(ROOT, name)) == []
