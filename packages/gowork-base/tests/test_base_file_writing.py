"""Files are written whole, and with the mode that they should have, whatever the umask."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gowork.base.file_writing import write_new, write_whole


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@contextmanager
def no_room() -> Iterator[None]:
    """Lets no file of this process have more than 3 bytes."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        write_new({tmp_path / "secret": (b"s", True), tmp_path / "public": (b"p", False)})
        write_whole(tmp_path / "other", b"o", is_secret=True)
    finally:
        os.umask(old)
    assert [mode(tmp_path / name) for name in ("secret", "public", "other")] == [0o600, 0o644, 0o600]
    assert sorted(os.listdir(tmp_path)) == ["other", "public", "secret"]


def test_a_replaced_secret_keeps_its_group_s_right_and_nobody_else_s(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o664)
    write_whole(path, b"new", is_secret=True)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o640)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new", is_secret=False)
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")


@pytest.mark.parametrize("dangling", [False, True])
def test_new_files_are_not_written_over_others_and_all_or_none(tmp_path: Path, dangling: bool) -> None:
    there = tmp_path / "there"
    there.symlink_to("nowhere") if dangling else there.write_bytes(b"mine")
    with pytest.raises(FileExistsError) as refused:
        write_new({tmp_path / "first": (b"1", True), there: (b"2", True)})
    assert refused.value.filename == str(there)
    assert os.listdir(tmp_path) == ["there"]
    assert dangling or there.read_bytes() == b"mine"


def test_without_room_nothing_is_left_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with no_room():
        with pytest.raises(OSError, match="too large") as full:
            write_whole(path, b"longer", is_secret=True)
        assert full.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="too large"):
            write_new({tmp_path / "a": (b"a", True), tmp_path / "b": (b"longer", True)})
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_where_there_are_no_hard_links_files_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(_source: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    write_new({tmp_path / "new": (b"n", True)})
    assert ((tmp_path / "new").read_bytes(), os.listdir(tmp_path)) == (b"n", ["new"])
    with pytest.raises(FileExistsError):
        write_new({tmp_path / "new": (b"again", True)})
