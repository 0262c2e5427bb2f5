"""What an encrypted task looks like: the form of its bytes and texts, and what each ciphertext is bound to.

Payloads and results become bytes that begin with MAGIC. Texts, such as the message of a failure, become words that
begin with PREFIX, because the contract has them as texts. Both name the codec and the key. Ids, labels, queues and
names of handlers stay as they are.

Each ciphertext is bound to the task's id and its own kind, a payload to the name of the handler too. So a leader can't
give a task the payload of another one, or a payload to another handler.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import NamedTuple

from gowork.base import values
from gowork.base.codecs import Altered, Codec, CodecError, UnknownKey
from gowork.proto import limits

#: Encrypted bytes begin so. No text does, and no bytes do by chance.
MAGIC = b"\x89gowork\x01"
#: Encrypted texts begin so.
PREFIX = "gowork-encrypted:"
#: The selector of encrypted tasks, and the label of workers with a codec. Its value is the codec's name. So encrypted
#: tasks are granted to workers that have the codec, and to no others.
LABEL = "gowork.codec"

_NAME = r"[A-Za-z0-9._-]{1,64}"
_NAME_PATTERN = re.compile(_NAME)
#: An encrypted text, also within other words, and cut off.
_TEXT_PATTERN = re.compile(rf"{PREFIX}({_NAME}):({_NAME}):([A-Za-z0-9_-]*)…?")
#: The first byte of what is encrypted: what it is.
_TEXT, _JSON, _DATA = 0, 1, 2
_CUT = "…".encode()


class TooLarge(CodecError):
    """Something takes more than 1 MiB when it is encrypted."""


class Payload(NamedTuple):
    """A decrypted payload: the fields of a task, and the key that it was encrypted with."""

    text: str
    data: bytes
    form: int
    key_id: str


class Result(NamedTuple):
    """A decrypted result: the fields of a task."""

    text: str
    data: bytes
    is_empty_data: bool


@dataclass(frozen=True, slots=True)
class Envelope:
    """Encrypted bytes, taken apart. The names are empty when they are broken."""

    codec: str
    key_id: str
    ciphertext: bytes

    @property
    def told(self) -> str:
        """With what it was encrypted, in words: "encrypted with key '2026' (aes-256-gcm)"."""
        return told(self.codec, self.key_id)


def told(codec: str, key_id: str) -> str:
    """Returns with what something was encrypted, in words."""
    return f"encrypted with key {key_id!r} ({codec})" if codec else "encrypted, and broken"


def is_encrypted(data: bytes) -> bool:
    """Whether these bytes, from the wire, are encrypted."""
    return data.startswith(MAGIC)


def envelope_of(data: bytes) -> Envelope | None:
    """Takes encrypted bytes apart; None when they are not encrypted."""
    if not data.startswith(MAGIC):
        return None
    names, at = [], len(MAGIC)
    for _ in range(2):
        size = data[at] if at < len(data) else 0
        name = data[at + 1 : at + 1 + size].decode("ascii", "replace")
        if not _NAME_PATTERN.fullmatch(name) or len(name) != size:
            return Envelope("", "", b"")
        names.append(name)
        at += 1 + size
    return Envelope(names[0], names[1], data[at:])


class Encryption:
    """Encrypts and decrypts the parts of tasks with one codec. May be used from any thread."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self.name = codec.name

    def payload(self, id: str, handler: str, text: str, data: bytes, form: int, key_id: str = "") -> bytes:
        """Encrypts a payload. Returns what takes the place of `data`.

        Args:
            id: the task's id.
            handler: the name of its handler, as the task has it.
            text: these three as gowork.base.values.encode_payload returned them.
            data: see text.
            form: see text.
            key_id: the key; empty for the one that encrypts now.

        Raises:
            TooLarge: when it takes more than 1 MiB then.
            CodecError: when it cannot be encrypted.
        """
        # Empty bytes are told from an empty text by their form.
        kind = _DATA if data or form == values.FORM_DATA else _TEXT
        plain = bytes((kind, form)) + (data or text.encode())
        return self._bytes(plain, _bound("payload", id, handler), key_id, "payload")

    def open_payload(self, id: str, handler: str, data: bytes) -> Payload:
        """Decrypts a payload.

        Raises:
            UnknownKey: when the codec or the key is not known here.
            Altered: when it is not the payload of this task and handler.
        """
        key_id, plain = self._open(data, _bound("payload", id, handler), "the payload")
        kind, form, content = plain[0], plain[1], plain[2:]
        return Payload("", content, form, key_id) if kind == _DATA else Payload(content.decode(), b"", form, key_id)

    def result(self, id: str, text: str, data: bytes, key_id: str) -> bytes:
        """Encrypts a result, as gowork.base.values.encode_result returned it, with this key.

        Raises:
            TooLarge, CodecError: as for payload.
        """
        plain = bytes((_JSON,)) + text.encode() if text else bytes((_DATA,)) + data
        return self._bytes(plain, _bound("result", id), key_id, "result")

    def open_result(self, id: str, data: bytes) -> Result:
        """Decrypts a result.

        Raises:
            UnknownKey, Altered: as for open_payload.
        """
        _, plain = self._open(data, _bound("result", id), "the result")
        content = plain[1:]
        if plain[0] == _JSON:
            return Result(content.decode(), b"", is_empty_data=False)
        return Result("", content, is_empty_data=not content)

    def checkpoint(self, id: str, state: bytes, key_id: str) -> bytes:
        """Encrypts what an attempt hands on to the next one with this key.

        Raises:
            TooLarge, CodecError: as for payload.
        """
        return self._bytes(state, _bound("checkpoint", id), key_id, "checkpoint")

    def open_checkpoint(self, id: str, data: bytes) -> bytes:
        """Decrypts a checkpoint.

        Raises:
            UnknownKey, Altered: as for open_payload.
        """
        return self._open(data, _bound("checkpoint", id), "the checkpoint")[1]

    def text(self, id: str, words: str, key_id: str, bytes_max: int, *, keeps_end: bool = False) -> str:
        """Encrypts a text with this key, cut so that it takes at most `bytes_max` bytes then.

        Args:
            id: the task's id.
            words: the text. Lone surrogates in it are written as escapes.
            key_id: the key.
            bytes_max: 512 or more.
            keeps_end: whether its end is kept, instead of its beginning.

        Raises:
            CodecError: when it cannot be encrypted.
        """
        plain = words.encode(errors="backslashreplace")
        written = self._text(plain, id, key_id)
        if len(written) > bytes_max:
            # Three bytes become four, and what is cut off is replaced by three bytes.
            room = len(plain) - (len(written) - bytes_max) * 3 // 4 - len(_CUT) - 3
            kept = plain[len(plain) - room :] if keeps_end else plain[:room]
            kept = kept.decode(errors="ignore").encode()
            written = self._text(_CUT + kept if keeps_end else kept + _CUT, id, key_id)
        return written

    def open_texts(self, id: str, words: str) -> str:
        """Decrypts each encrypted text in these words. One that cannot be decrypted is replaced by the reason."""

        def replaced(match: re.Match[str]) -> str:
            codec, key_id, encoded = match.groups()
            try:
                if codec != self.name:
                    raise UnknownKey(f"the codec here is {self.name}")
                ciphertext = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
                return self._codec.decrypt(key_id, ciphertext, _bound("text", id)).decode(errors="replace")
            except UnknownKey:
                return f"({told(codec, key_id)}, which is not here)"
            except (Altered, binascii.Error, ValueError):
                return f"({told(codec, key_id)}, and cut off or altered)"

        return _TEXT_PATTERN.sub(replaced, words) if PREFIX in words else words

    def _text(self, plain: bytes, id: str, key_id: str) -> str:
        key_id, ciphertext = self._codec.encrypt(plain, _bound("text", id), key_id)
        return f"{PREFIX}{self.name}:{key_id}:{base64.urlsafe_b64encode(ciphertext).rstrip(b'=').decode()}"

    def _bytes(self, plain: bytes, bound: bytes, key_id: str, field: str) -> bytes:
        key_id, ciphertext = self._codec.encrypt(plain, bound, key_id)
        head = b"".join(bytes((len(name),)) + name.encode() for name in (self.name, key_id))
        data = MAGIC + head + ciphertext
        if len(data) > limits.PAYLOAD_BYTES_MAX:
            raise TooLarge(
                f"{field}: it takes {len(data):,} bytes when it is encrypted; at most {limits.PAYLOAD_BYTES_MAX:,} "
                f"(1 MiB) are taken, counted after encryption, which adds {len(data) - len(plain):,}: store it "
                "elsewhere, and send its address"
            )
        return data

    def _open(self, data: bytes, bound: bytes, what: str) -> tuple[str, bytes]:
        envelope = envelope_of(data)
        if envelope is None:
            raise Altered(f"{what} is not encrypted")
        if not envelope.codec:
            raise Altered(f"{what} is {envelope.told}")
        if envelope.codec != self.name:
            raise UnknownKey(f"{what} is {envelope.told}: the codec here is {self.name}")
        try:
            plain = self._codec.decrypt(envelope.key_id, envelope.ciphertext, bound)
        except (UnknownKey, Altered) as error:
            raise type(error)(f"{what} is {envelope.told}: {error}") from error
        if len(plain) < 1:
            raise Altered(f"{what} is {envelope.told}: it is empty")
        return envelope.key_id, plain


def hide_texts(words: str) -> str:
    """Replaces each encrypted text in these words by a note that says with what it is encrypted."""
    if PREFIX not in words:
        return words
    return _TEXT_PATTERN.sub(lambda match: f"({told(match[1], match[2])})", words)


def _bound(kind: str, id: str, handler: str = "") -> bytes:
    """Returns what a ciphertext is bound to. Lengths go before the names, so that no two tasks have the same."""
    parts = (part.encode() for part in (kind, id, handler))
    return b"gowork 1 " + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
