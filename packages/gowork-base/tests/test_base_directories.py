"""Directories that nobody else may write to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gowork.base import directories
from gowork.base.directories import SharedDirectoryError, check_not_public, make_directory, make_private


def test_what_is_missing_is_made_for_this_user_alone(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700]
    make_directory(tmp_path / "a" / "b")


def test_a_directory_that_others_may_write_is_refused_and_named(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for mode in (0o777, 0o1777, 0o702):
        shared.chmod(mode)
        with pytest.raises(SharedDirectoryError, match=f"{shared} may be written by others"):
            make_private(shared)
    shared.chmod(0o700)
    make_private(shared)


def test_a_parent_that_others_may_write_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(SharedDirectoryError, match=f"{shared} may be written by others"):
        make_private(shared / "a" / "b")
    with pytest.raises(SharedDirectoryError, match="replace what is kept in"):
        check_not_public(shared / "a" / "b")
    shared.chmod(0o1777)
    make_private(shared / "a" / "b")
    check_not_public(shared / "a" / "b")


def test_behind_a_link_the_parents_of_what_it_leads_to_are_looked_at(tmp_path: Path) -> None:
    shared, link = tmp_path / "shared", tmp_path / "link"
    (shared / "inner").mkdir(parents=True, mode=0o700)
    shared.chmod(0o777)
    link.symlink_to(shared / "inner")
    for check in (make_private, check_not_public):
        with pytest.raises(SharedDirectoryError, match=f"{shared} may be written by others"):
            check(link)


def test_a_directory_below_another_users_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    # As the user after this one: all that this one has is another's to them.
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        # Root's directories are safe; so the test's own must be another's.
        os.chown(tmp_path, 12345, 12345)
    with pytest.raises(SharedDirectoryError, match=f"{tmp_path} belongs to another user"):
        make_private(tmp_path)


def test_a_group_may_write_a_store_but_not_what_proves_an_end(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    check_not_public(shared)
    if os.geteuid() == 0:
        os.chown(shared, 0, 12345)
        with pytest.raises(SharedDirectoryError, match="may be written by others"):
            make_private(shared)


def test_the_name_of_each_new_directory_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(directories, "sync_directory", synced.append)
    make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
