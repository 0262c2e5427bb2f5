from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gowork.worker._supervisor.instances import InstanceLocks, default_state_dir


def instance(number: int) -> str:
    return f"{number:016x}"


def ended(folder: Path, name: str = "w") -> list[str]:
    successor = InstanceLocks(folder, name, "successor")
    found = successor.ended()
    successor.close(left=True)
    return found


def test_instance_has_ended_when_the_last_process_that_inherited_its_lock_has(tmp_path: Path) -> None:
    lock = InstanceLocks(tmp_path, "w", instance(1))
    with subprocess.Popen(["sleep", "1000"], pass_fds=[lock.descriptor]) as runner:
        assert ended(tmp_path) == []
        lock.close(left=False)
        assert ended(tmp_path) == []
        runner.kill()
        runner.wait()
        assert ended(tmp_path) == [instance(1)]


def test_predecessor_is_named_until_a_leader_has_been_told(tmp_path: Path) -> None:
    InstanceLocks(tmp_path, "w", instance(1)).close(left=False)
    successor = InstanceLocks(tmp_path, "w", instance(2))
    assert successor.ended() == successor.ended() == [instance(1)]
    successor.forget([instance(1)])
    assert successor.ended() == []
    successor.close(left=True)
    assert ended(tmp_path) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_instance_that_has_left_needs_no_proof(tmp_path: Path) -> None:
    InstanceLocks(tmp_path, "w", instance(1)).close(left=True)
    assert ended(tmp_path) == []


def test_names_are_kept_apart_whatever_is_in_them(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "..", "ü" * 128, "x" * 256]
    for number, name in enumerate(names):
        InstanceLocks(tmp_path, name, instance(number)).close(left=False)
    assert [ended(tmp_path, name) for name in names] == [[instance(number)] for number in range(len(names))]


def test_latest_sixteen_are_named(tmp_path: Path) -> None:
    for number in range(20):
        lock = InstanceLocks(tmp_path, "w", instance(number))
        os.utime(lock.descriptor, (number, number))
        lock.close(left=False)
    successor = InstanceLocks(tmp_path, "w", "successor")
    assert successor.ended() == [instance(number) for number in range(19, 3, -1)]
    successor.forget(successor.ended())
    assert successor.ended() == [instance(number) for number in range(3, -1, -1)]
    successor.close(left=True)


def test_lock_of_another_machine_proves_nothing(tmp_path: Path) -> None:
    lock = InstanceLocks(tmp_path, "w", instance(1))
    os.pwrite(lock.descriptor, b"0", 0)
    lock.close(left=False)
    assert ended(tmp_path) == []


def test_directory_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="written by others"):
        InstanceLocks(tmp_path, "w", instance(1))


def test_state_lies_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "gowork" / "workers"
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert str(os.getuid()) in default_state_dir().parts[-2]
