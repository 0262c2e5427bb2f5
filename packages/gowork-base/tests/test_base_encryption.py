"""The codec aes-256-gcm, the form of what is encrypted, and what each ciphertext is bound to."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gowork.base import codecs, encryption, values
from gowork.base.codecs import Altered, Codec, CodecSetupError, UnknownKey, codec_of, load_codec
from gowork.base.encryption import Encryption, TooLarge, envelope_of, hide_texts, is_encrypted
from gowork.base.extensions import Extension
from gowork.base.key_files import new_key, write_file
from gowork.proto import limits


def codec_with(folder: Path, *ids: str, root: bytes = b"") -> Codec:
    path = folder / "-".join(ids)
    write_file(path, {id: (root or id.encode()).ljust(32, b".") for id in ids})
    return load_codec("", str(path))


@pytest.fixture
def ours(tmp_path: Path) -> Encryption:
    return Encryption(codec_with(tmp_path, "k1"))


@pytest.mark.parametrize("value", ["", "text", '"text"', "ünï", b"", b"\x00\xff", {"a": [1]}, None, 7])
def test_each_payload_comes_back_with_its_form(ours: Encryption, value: Any) -> None:
    encoded = values.encode_payload(value)
    opened = ours.open_payload("a", "h", ours.payload("a", "h", *encoded))
    assert (opened.text, opened.data, opened.form, opened.key_id) == (*encoded, "k1")


@pytest.mark.parametrize("value", [None, "text", b"", b"\x00\xff", {"a": [1]}])
def test_each_result_comes_back(ours: Encryption, value: Any) -> None:
    text, data = values.encode_result(value)
    assert ours.open_result("a", ours.result("a", text, data, "k1")) == (text, data, value == b"")


def test_a_ciphertext_has_nothing_of_its_plaintext_but_names_codec_and_key(ours: Encryption) -> None:
    data = ours.payload("the-task", "the-handler", "a secret " * 9, b"", 0)
    envelope = envelope_of(data)
    assert envelope is not None
    assert (envelope.codec, envelope.key_id) == ("aes-256-gcm", "k1")
    assert is_encrypted(data)
    for part in (b"secret", b"the-task", b"the-handler"):
        assert part not in data
    assert "secret" not in ours.text("a", "a secret", "k1", 1024)


def test_a_payload_is_of_its_task_its_handler_and_its_kind_alone(ours: Encryption) -> None:
    data = ours.payload("a", "bc", "text", b"", 0)
    for id, handler in (("b", "bc"), ("a", "b"), ("ab", "c"), ("a", "")):
        with pytest.raises(Altered, match="the payload is encrypted with key 'k1'.*altered, or belongs to another"):
            ours.open_payload(id, handler, data)
    with pytest.raises(Altered, match="the result is"):
        ours.open_result("a", ours.payload("a", "", "text", b"", 0))
    with pytest.raises(Altered):
        ours.open_result("b", ours.result("a", "1", b"", "k1"))
    handed_on = ours.checkpoint("a", b"state", "k1")
    assert ours.open_checkpoint("a", handed_on) == b"state"
    for id, data in (("b", handed_on), ("a", ours.result("a", "", b"state", "k1"))):
        with pytest.raises(Altered, match="the checkpoint is"):
            ours.open_checkpoint(id, data)
    token = ours.text("a", "words", "k1", 1024)
    assert ours.open_texts("a", f"<{token}>") == "<words>"
    assert ours.open_texts("b", token) == "(encrypted with key 'k1' (aes-256-gcm), and cut off or altered)"


@given(st.data())
def test_a_changed_ciphertext_never_opens(data: st.DataObject) -> None:
    ours = Encryption(_FIXED)
    whole = ours.payload("a", "h", "text", b"", 0)
    at = data.draw(st.integers(len(encryption.MAGIC), len(whole) - 1))
    changed = data.draw(
        st.one_of(
            st.just(whole[:at]),
            st.integers(1, 255).map(lambda bits: whole[:at] + bytes((whole[at] ^ bits,)) + whole[at + 1 :]),
            st.binary(max_size=40).map(lambda rest: encryption.MAGIC + rest),
        )
    )
    with pytest.raises((Altered, UnknownKey)):
        ours.open_payload("a", "h", changed)


def test_the_same_payload_has_the_same_ciphertext_and_no_other_shares_its_nonce(ours: Encryption) -> None:
    first = ours.payload("a", "h", "text", b"", 0)
    assert ours.payload("a", "h", "text", b"", 0) == first
    others = [ours.payload("a", "h", "texu", b"", 0), ours.payload("b", "h", "text", b"", 0)]
    ciphertexts = [envelope.ciphertext for data in (first, *others) if (envelope := envelope_of(data))]
    assert len({ciphertext[:12] for ciphertext in ciphertexts}) == 3


def test_the_first_key_encrypts_and_all_decrypt(tmp_path: Path) -> None:
    old, both = Encryption(codec_with(tmp_path, "k1")), Encryption(codec_with(tmp_path, "k2", "k1"))
    assert both.open_payload("a", "", old.payload("a", "", "x", b"", 0)).key_id == "k1"
    data = both.payload("a", "", "x", b"", 0)
    with pytest.raises(UnknownKey, match="the payload is encrypted with key 'k2'.*there is no key 'k2' in .*has 'k1'"):
        old.open_payload("a", "", data)
    assert both.payload("a", "", "x", b"", 0, "k1") == old.payload("a", "", "x", b"", 0)
    assert "which is not here" in old.open_texts("a", both.text("a", "x", "k2", 1024))


def test_a_key_of_the_same_id_that_is_another_one_does_not_open(tmp_path: Path) -> None:
    data = Encryption(codec_with(tmp_path, "k1")).payload("a", "", "x", b"", 0)
    other = Encryption(codec_with(tmp_path, "k1", root=b"other"))
    with pytest.raises(Altered):
        other.open_payload("a", "", data)


def test_the_limit_is_counted_after_encryption(ours: Encryption) -> None:
    more = len(ours.payload("a", "", "", b"", 0))
    assert len(ours.payload("a", "", "x" * (limits.PAYLOAD_BYTES_MAX - more), b"", 0)) == limits.PAYLOAD_BYTES_MAX
    with pytest.raises(TooLarge, match=r"payload: it takes 1,048,577 bytes when it is encrypted; at most 1,048,576"):
        ours.payload("a", "", "x" * (limits.PAYLOAD_BYTES_MAX - more + 1), b"", 0)
    with pytest.raises(TooLarge, match="result: .*counted after encryption"):
        ours.result("a", "", b"x" * limits.PAYLOAD_BYTES_MAX, "k1")


@given(st.text(max_size=3000), st.booleans())
def test_a_text_is_cut_to_what_it_may_take(words: str, keeps_end: bool) -> None:
    ours = Encryption(_FIXED)
    token = ours.text("a", words, "k1", 1024, keeps_end=keeps_end)
    assert len(token) <= 1024
    opened = ours.open_texts("a", token)
    if opened != words:
        assert len(words.encode()) > 650
        assert words.endswith(opened[1:]) if keeps_end else words.startswith(opened[:-1])
        assert "…" in (opened[:1], opened[-1:])


def test_texts_are_found_within_other_words_and_cut_ones_are_named(ours: Encryption) -> None:
    token = ours.text("a", "words", "k1", 1024)
    assert hide_texts(f"it said {token}.") == "it said (encrypted with key 'k1' (aes-256-gcm))."
    assert ours.open_texts("a", f"{token} and {token[:-3]}…") == (
        "words and (encrypted with key 'k1' (aes-256-gcm), and cut off or altered)"
    )
    assert ours.open_texts("a", "nothing") == "nothing"


def test_another_codec_is_named(tmp_path: Path) -> None:
    codec = codec_with(tmp_path, "k1")
    data = Encryption(codec).payload("a", "", "x", b"", 0)
    codec.name = "other"
    with pytest.raises(UnknownKey, match=r"encrypted with key 'k1' \(aes-256-gcm\): the codec here is other"):
        Encryption(codec).open_payload("a", "", data)


class Reversing:
    """A codec of somebody else."""

    name = "reversing"

    def __init__(self, keys: str) -> None:
        self.keys = keys

    def encrypt(self, plain: bytes, bound: bytes, key_id: str = "") -> tuple[str, bytes]:
        return key_id or self.keys, plain[::-1]

    def decrypt(self, key_id: str, ciphertext: bytes, bound: bytes) -> bytes:
        return ciphertext[::-1]


def test_codecs_are_found_by_name_among_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no such service")

    found = [
        Extension("reversing", "m:f", "rev", "1", lambda: Reversing),
        Extension("twice", "m:f", "one", "1", lambda: Reversing),
        Extension("twice", "m:f", "two", "1", lambda: Reversing),
        Extension("broken", "m:f", "bro", "1", lambda: lambda keys: broken()),
    ]
    monkeypatch.setattr(codecs, "installed", lambda group: found if group == "gowork.codecs" else [])
    codec = codec_of(None, None, {"GOWORK_CODEC": "reversing", "GOWORK_KEYS": "main"})
    assert codec is not None
    assert Encryption(codec).open_payload("a", "", Encryption(codec).payload("a", "", "x", b"", 0)).key_id == "main"
    for name, told in (
        ("none", "there is no 'none' here, only aes-256-gcm, broken, reversing, twice"),
        ("twice", "'twice' is contributed by one 1 and two 1: uninstall all but one"),
        ("broken", "broken .bro 1. cannot be set up: OSError: no such service"),
    ):
        with pytest.raises(CodecSetupError, match=told):
            load_codec(name, "")


def test_arguments_come_before_variables_and_empty_keys_mean_none(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_file(path, dict([new_key()]))
    assert codec_of(None, None, {}) is None
    assert codec_of("", None, {"GOWORK_KEYS": str(path)}) is None
    assert codec_of(None, None, {"GOWORK_KEYS": str(path)}) is not None
    assert codec_of(str(path), None, {"GOWORK_KEYS": "nowhere"}) is not None
    with pytest.raises(CodecSetupError, match="needs a file of keys: name it with --keys or GOWORK_KEYS"):
        codec_of(None, "aes-256-gcm", {})


def test_cryptography_is_imported_only_when_its_codec_is_used() -> None:
    code = "import sys, gowork.client, gowork.worker, gowork.base.encryption; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_cryptography_the_error_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write_file(path, dict([new_key()]))
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from gowork.base.codecs import CodecSetupError, load_codec\n"
        f"try: load_codec('', {str(path)!r})\n"
        "except CodecSetupError as error: assert 'pip install cryptography' in str(error), error\n"
        "else: sys.exit('no error')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _fixed() -> Codec:
    with tempfile.TemporaryDirectory() as folder:
        return codec_with(Path(folder), "k1")


_FIXED = _fixed()
