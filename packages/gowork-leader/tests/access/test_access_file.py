"""The access file: what it may say, and what is said of one that can't be used."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gowork.leader._access.access import Access
from gowork.leader._access.access_file import FILE_BYTES_MAX, AccessError, read_access_file

TOKEN = "sha256:" + "0" * 64
NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("x", "access.toml: "),
        (f"limits = {{sessions = {'1' * 5000}}}", "access.toml: "),
        (f'[[identity]]\nname = "a"\nroles = ["client"]\ntokens = ["{NOTHING}"]', "hash of an empty token"),
        ('revoked = ["CN=adm"]', "is neither the name of an identity nor serial:HEX"),
        ('revoked = ["gowork://admin/a"]', "is neither the name of an identity nor serial:HEX"),
        (f'revoked = ["{TOKEN}"]', "is neither the name of an identity nor serial:HEX"),
        ('revoked = ["a "]', "is neither the name of an identity nor serial:HEX"),
        ("queue = 1", "unknown field `queue`"),
        ("[[identity]]", "missing required field `name`"),
        ("[[identity]]\nname = 1", "Expected `str`, got `int` - at `$.identity[0].name`"),
        ('[[identity]]\nname = "a"\nrole = "client"', "unknown field `role` - at `$.identity[0]`"),
        ('[[identity]]\nname = "a"\nroles = ["root"]', "`$.identity[0].roles[0]`; roles are client, worker"),
        ('[[identity]]\nname = "a"\nrevoked = ["b"]', "stand above the first [[identity]]"),
        ('[[identity]]\nname = "a"\nroles = "client"', 'lists are written as in ["client"]'),
        ('[[identity]]\nname = "a"\n[[identity]]\nname = "a"', "identity 'a' is there twice"),
        ('[[identity]]\nname = " "', "a name is printable text"),
        (f'[[identity]]\nname = "{"a" * 257}"', "a name is printable text of 1 to 256 bytes"),
        (f'[[identity]]\nname = "a"\ntokens = ["{TOKEN}"]', "tokens and certificates need roles"),
        (
            '[[identity]]\nname = "a"\nroles = ["client"]\ntokens = ["secret"]',
            "a token is written as sha256: and 64 ",
        ),
        ('[[identity]]\nname = "a"\nroles = ["client"]\ncertificates = ["a"]', "must begin with one of CN="),
        (
            f'[[identity]]\nname = "a"\nroles = ["client"]\ntokens = ["{TOKEN}"]\n'
            f'[[identity]]\nname = "b"\nroles = ["admin"]\ntokens = ["{TOKEN}"]',
            "is also that of 'a'",
        ),
        (f'[[identity]]\nname = "a"\nroles = ["leader"]\ntokens = ["{TOKEN}"]', "have certificates, not tokens"),
        ('revoked = ["serial:XY"]', "must be serial: and hexadecimal digits"),
        ('join_networks = [""]', "is no network or host"),
        ('join_networks = ["10.0.0.0/33"]', "'10.0.0.0/33' is no network or host"),
        ('join_networks = ["10.0.0.0/8 "]', "is no network or host"),
        ('[identity]\nname = "a"', "each identity begins with [[identity]]"),
        ("#" * (FILE_BYTES_MAX + 1), "has more than"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_its_fault(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "access.toml"
    path.write_text(text)
    with pytest.raises(AccessError) as refused:
        read_access_file(path)
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="can't be read: No such file"):
        read_access_file(tmp_path / "x")
    (tmp_path / "y").write_bytes(b"\xff")
    with pytest.raises(AccessError):
        read_access_file(tmp_path / "y")
    (tmp_path / "z").write_text("# nobody")
    (tmp_path / "z").chmod(0o666)
    with pytest.raises(AccessError, match="everybody may write to it"):
        read_access_file(tmp_path / "z")
    os.mkfifo(tmp_path / "f")
    with pytest.raises(AccessError, match="is no file"):
        read_access_file(tmp_path / "f")


def test_a_file_that_is_written_in_its_place_is_used_when_it_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text("# nobody")
    access = Access(path)
    path.write_text("revoked = ['a']")
    assert [access.refresh() for _ in range(3)] == [False, True, False]
    # One that is renamed is whole.
    (tmp_path / "new").write_text("revoked = ['a', 'b']")
    (tmp_path / "new").rename(path)
    assert access.refresh()
    path.write_text("")
    assert [access.refresh() for _ in range(2)] == [False, False]
    assert "is empty" in access.fault
