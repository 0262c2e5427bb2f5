"""Files of keys: who may read them, what they may hold, and when they are read again."""

from __future__ import annotations

import base64
import itertools
import logging
import os
import secrets
from pathlib import Path

import pytest

from gowork.base import key_files
from gowork.base.codecs import CodecSetupError
from gowork.base.key_files import KeyFile, check_file, new_key, read_file, write_file

#: Keys of lines that name none. They are the same in each process that collects these tests.
_KEYS = (number.to_bytes(32, "big") for number in itertools.count(1))


def line(id: str, key: bytes | None = None) -> str:
    return f"{id} {base64.b64encode(key or next(_KEYS)).decode()}\n"


def kept(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_keys_come_in_the_order_of_their_lines(tmp_path: Path) -> None:
    one, two = secrets.token_bytes(32), secrets.token_bytes(32)
    path = kept(tmp_path / "keys", "# a remark\n\n" + line("one", one) + line("two", two))
    assert list(read_file(path).items()) == [("one", one), ("two", two)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no key"),
        ("# only a remark\n", "has no key"),
        ("one\n", "line 1: not `ID KEY`"),
        ("one two three\n", "line 1: not `ID KEY`"),
        (line("ö") + "", "ASCII"),
        (line("a:b"), "line 1: not `ID KEY`"),
        ("one $$$$\n", "line 1: the key is not base64"),
        (line("one", b"short"), "line 1: the key has 5 bytes, not 32"),
        (line("one") + line("one"), "line 2: the id 'one' is there twice"),
        (line("one", b"k" * 32) + line("two", b"k" * 32), "line 2: the key is there twice"),
        ("".join(line(f"k{number}") for number in range(65)), "has 65 keys; at most 64"),
        ("# " + "x" * key_files.FILE_BYTES_MAX, "has over 65,536 bytes"),
    ],
)
def test_a_file_at_fault_is_refused_with_the_line_and_without_its_words(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    with pytest.raises(CodecSetupError) as caught:
        read_file(path)
    assert told in str(caught.value)
    assert not any(word in str(caught.value) for word in text.split() if len(word) > 20)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o610, 0o644, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    path = kept(tmp_path / "keys", line("one"), mode)
    for look in (read_file, check_file):
        with pytest.raises(CodecSetupError, match=f"has mode {mode:04o}.*chmod 600"):
            look(path)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_its_owner_and_its_group_may_read_a_file(tmp_path: Path, mode: int) -> None:
    assert list(read_file(kept(tmp_path / "keys", line("one"), mode))) == ["one"]


def test_a_file_that_is_none_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, told in (("pipe", "is not a file"), (".", "is not a file"), ("none", "gowork keys new")):
        with pytest.raises(CodecSetupError, match=told):
            read_file(tmp_path / name)


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    path = kept(tmp_path / "keys", line("one"))
    file = KeyFile(str(path))
    write_file(path, {"two": secrets.token_bytes(32), **read_file(path)})
    assert list(file.keys()) == ["two", "one"]


def test_an_unknown_key_is_looked_for_in_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 3600.0)
    path = kept(tmp_path / "keys", line("one"))
    file = KeyFile(str(path))
    assert file.get("two") is None
    write_file(path, {**read_file(path), "two": b"2" * 32})
    assert list(file.keys()) == ["one"]
    assert file.get("two") == b"2" * 32


@pytest.mark.parametrize("fault", ["nonsense\n", None])
def test_the_old_keys_stay_when_the_new_file_is_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str | None
) -> None:
    monkeypatch.setattr(key_files, "LOOK_SECONDS", 0.0)
    path = kept(tmp_path / "keys", line("one"))
    file = KeyFile(str(path))
    path.unlink() if fault is None else path.write_text(fault)
    with caplog.at_level(logging.WARNING):
        assert [list(file.keys()) for _ in range(3)] == [["one"]] * 3
    assert [record.message for record in caplog.records] == ["the keys are not read again, and the old ones stay"]
    kept(path, line("two"))
    assert list(file.keys()) == ["two"]


def test_a_written_file_is_its_owner_s_alone_and_keeps_its_group(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old = os.umask(0)
    try:
        write_file(path, dict([new_key()]))
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o640)
        write_file(path, dict([new_key(), new_key()]))
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == ["keys"]
    assert len(read_file(path)) == 2
