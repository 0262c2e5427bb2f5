"""Where a backup is written on the client's side."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gowork.client._backups import BackupFile


def test_a_backup_follows_no_link_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "backup.db.part").symlink_to(victim)
    with BackupFile(tmp_path / "backup.db"):
        assert stat.S_IMODE((tmp_path / "backup.db.part").lstat().st_mode) == 0o600
    assert victim.read_text() == "precious"


def test_a_link_that_leads_nowhere_is_no_place_for_a_backup(tmp_path: Path) -> None:
    (tmp_path / "backup.db").symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        BackupFile(tmp_path / "backup.db")
