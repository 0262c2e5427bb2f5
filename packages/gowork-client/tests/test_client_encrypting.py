"""What the client encrypts and decrypts, where no leader is needed. tests/e2e/test_e2e_encryption.py has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gowork.base.codecs import load_codec
from gowork.base.encryption import Encryption, envelope_of
from gowork.base.key_files import write_file
from gowork.client import Client, CodecSetupError
from gowork.client._encrypting import encrypt, encrypt_like, rewrite
from gowork.client._leader_fields import THE_ORIGINAL
from gowork.client._requests import TaskEncoder
from gowork.client._responses import task_info
from gowork.client.errors import InvalidArgument, LeaderTooOld
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


def with_keys(folder: Path, *ids: str) -> Encryption:
    path = folder / "-".join(ids)
    write_file(path, {id: id.encode().ljust(32, b".") for id in ids})
    return Encryption(load_codec("", str(path)))


def task(encryption: Encryption, payload: str, **fields: Any) -> scheduler.Task:
    made = scheduler.Task(id="a", payload=payload, **fields)
    encrypt(made, encryption)
    return made


def test_a_repeated_submit_takes_the_key_of_the_task_that_is_there(tmp_path: Path) -> None:
    old, both = with_keys(tmp_path, "k1"), with_keys(tmp_path, "k2", "k1")
    mine = task(both, "same")
    assert encrypt_like(mine, task(old, "same"), both)
    assert mine == task(old, "same")


def test_an_old_key_is_not_used_again_because_a_leader_names_it(tmp_path: Path) -> None:
    old, both = with_keys(tmp_path, "k1"), with_keys(tmp_path, "k2", "k1")
    mine = task(both, "secret")
    for known in (task(old, "other"), scheduler.Task(id="a", data=task(old, "x").data[:-1]), scheduler.Task(id="a")):
        assert not encrypt_like(mine, known, both)
        assert mine == task(both, "secret")


def test_another_payload_is_encrypted_for_its_task_and_handler(tmp_path: Path) -> None:
    ours = with_keys(tmp_path, "k1")
    again = scheduler.Task(id="a", handler="other", payload="new")
    rewrite(task(ours, "old", handler="h"), again, ours, keeps_payload=False)
    assert ours.open_payload("a", "other", again.data).text == "new"
    assert again.payload == ""


def test_a_payload_that_is_kept_is_encrypted_anew_for_another_handler(tmp_path: Path) -> None:
    ours, known = with_keys(tmp_path, "k1"), scheduler.Task()
    known.CopyFrom(task(ours, "kept", handler="h"))
    again = scheduler.Task(id="a", handler="other")
    rewrite(known, again, ours, keeps_payload=True)
    assert ours.open_payload("a", "other", again.data).text == "kept"
    same = scheduler.Task(id="a", handler="h")
    rewrite(task(ours, "kept", handler="h"), same, ours, keeps_payload=True)
    assert (same.payload, same.data) == ("", b"")


def test_what_is_encrypted_stays_so_and_what_is_not_is_not_mixed_with_it(tmp_path: Path) -> None:
    ours = with_keys(tmp_path, "k1")
    for known, encryption, keeps, field in (
        (task(ours, "old", handler="h"), None, False, "payload"),
        (task(ours, "old", handler="h"), None, True, "handler"),
        (task(ours, "old", handler="h"), with_keys(tmp_path, "k2"), True, "handler"),
        (scheduler.Task(id="a", handler="h", payload="old"), ours, False, "payload"),
    ):
        again = scheduler.Task(id="a", handler="other", payload="" if keeps else "new")
        with pytest.raises(InvalidArgument) as caught:
            rewrite(known, again, encryption, keeps_payload=keeps)
        assert [violation.field for violation in caught.value.violations] == [field]
    plain = scheduler.Task(id="a", handler="other", payload="new")
    rewrite(scheduler.Task(id="a", handler="h", payload="old"), plain, None, keeps_payload=False)
    assert plain.payload == "new"


def test_a_leader_that_knows_no_selectors_is_refused(tmp_path: Path) -> None:
    encoder = TaskEncoder({}, encryption=with_keys(tmp_path, "k1"))
    encoder.fit(THE_ORIGINAL, "somewhere:1")
    with pytest.raises(LeaderTooOld, match="data.*selector"):
        encoder.task("text")


def test_what_is_broken_is_told_and_raises_nothing(tmp_path: Path) -> None:
    ours = with_keys(tmp_path, "k1")
    data = task(ours, "text").data
    for broken in (data[:8], data[:9], data[:20], data[:-1]):
        for encryption in (None, ours):
            told = task_info(scheduler.Task(id="a", data=broken, result_data=broken), encryption)
            assert sorted(told.encrypted) == ["payload", "result"]
            assert told.data == broken
    assert envelope_of(data[:9]) is not None


def test_keys_come_from_the_argument_or_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys(tmp_path, "k1")
    monkeypatch.setenv("GOWORK_KEYS", str(tmp_path / "nowhere"))
    Client(keys=tmp_path / "k1").close()
    Client(keys="").close()
    with pytest.raises(CodecSetupError, match="nowhere: No such file"):
        Client()


def test_a_group_that_nobody_runs_has_no_payload_to_encrypt(tmp_path: Path) -> None:
    ours, group = with_keys(tmp_path, "k1"), scheduler.GroupOptions()
    nobody = task(ours, "", group=group)
    assert (nobody.data, dict(nobody.selector)) == (b"", {})
    # What the leader is to refuse is not told to it.
    assert envelope_of(task(ours, "secret", group=group).data) is not None
    assert envelope_of(task(ours, "", group=group, handler="h").data) is not None
    assert envelope_of(task(ours, "", handler="h").data) is not None
