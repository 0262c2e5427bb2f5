"""Encrypts tasks before they are sent, and decrypts what comes back. Only where the client has a codec.

A part that cannot be decrypted is no error: a listing goes on. TaskInfo.encrypted says which parts those are and why.
"""

from __future__ import annotations

import os
from os import PathLike

from gowork.base.codecs import Codec, CodecError, codec_of
from gowork.base.encryption import LABEL, Encryption, TooLarge, envelope_of, hide_texts, is_encrypted
from gowork.client.errors import InvalidArgument
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

#: {part of a task: why it could not be decrypted}
Undecrypted = dict[str, str]
_HOW = "give the client the file of keys: keys=, --keys or GOWORK_KEYS"


def encryption_of(keys: str | PathLike[str] | None, codec: str | Codec | None) -> Encryption | None:
    """Returns what a client's arguments, or environment variables, ask for; None when nothing is to be encrypted.

    Raises:
        CodecSetupError: when the codec or its keys cannot be used.
    """
    if codec is not None and not isinstance(codec, str):
        return Encryption(codec)
    found = codec_of(None if keys is None else os.fspath(keys), codec, os.environ)
    return None if found is None else Encryption(found)


def encrypt(task: scheduler.Task, encryption: Encryption) -> None:
    """Encrypts the payload of a new task, and has it granted to workers with the codec only.

    Raises:
        InvalidArgument: when it is too large then, or cannot be encrypted.
    """
    if task.HasField("group") and not (task.handler or task.payload or task.data):
        # Nobody runs it, so that it has no payload.
        return
    try:
        data = encryption.payload(task.id, task.handler, task.payload, task.data, task.payload_form)
    except TooLarge as error:
        raise InvalidArgument.of("payload", str(error).removeprefix("payload: ")) from error
    except (CodecError, UnicodeError) as error:
        raise InvalidArgument.of("payload", f"it cannot be encrypted: {error}") from error
    task.payload, task.data, task.payload_form = "", data, scheduler.PAYLOAD_FORM_UNSPECIFIED
    task.selector[LABEL] = encryption.name
    if len(task.selector) > limits.LABELS_MAX:
        raise InvalidArgument.of(
            "selector", f"at most {limits.LABELS_MAX - 1} labels are taken, because {LABEL} is added to encrypted tasks"
        )


def encrypt_like(task: scheduler.Task, known: scheduler.Task, encryption: Encryption) -> bool:
    """Encrypts the payload of a task anew, with the key of a task that the leader has, if that has the same payload.

    If it has another one, nothing is encrypted with its key. Otherwise a leader that knows an old key could have it
    used again.

    Returns:
        Whether that was done. Only then another submit can find the two to be the same.
    """
    mine, other = envelope_of(task.data), envelope_of(known.data)
    if mine is None or other is None or other.codec != encryption.name or other.key_id == mine.key_id:
        return False
    try:
        own = encryption.open_payload(task.id, task.handler, task.data)
        there = encryption.open_payload(task.id, task.handler, known.data)
        if own[:3] != there[:3]:
            return False
        task.data = encryption.payload(task.id, task.handler, own.text, own.data, own.form, there.key_id)
    except CodecError:
        return False
    return True


def rewrite(known: scheduler.Task, task: scheduler.Task, encryption: Encryption | None, *, keeps_payload: bool) -> None:
    """Fills in, and encrypts, the payload of a task that is to run again with another payload or handler.

    Args:
        known: the task as the leader has it.
        task: has its id, the handler, and the payload unless that is kept.
        encryption: how the client encrypts; None: it does not.
        keeps_payload: whether the payload stays as it is.

    Raises:
        InvalidArgument: when the task is encrypted and the client cannot read or encrypt it, or the other way round.
    """
    was_encrypted = LABEL in known.selector
    if keeps_payload:
        if not was_encrypted or task.handler == known.handler:
            return
        # A ciphertext is bound to the name of the handler.
        undecrypted = decrypt(known, encryption)
        if "payload" in undecrypted:
            raise InvalidArgument.of("handler", f"the payload is {undecrypted['payload']}")
        task.payload, task.data, task.payload_form = known.payload, known.data, known.payload_form
    if was_encrypted and encryption is None:
        raise InvalidArgument.of("payload", f"the task is encrypted; {_HOW}")
    if encryption is not None:
        if not was_encrypted:
            # It may be granted to workers without the codec.
            raise InvalidArgument.of(
                "payload", "the task is not encrypted, and this client encrypts; schedule another one"
            )
        encrypt(task, encryption)


def decrypt(task: scheduler.Task, encryption: Encryption | None) -> Undecrypted:
    """Decrypts all parts of a task that came from a leader, in their places. Parts that cannot be stay as they are, but
    texts are replaced by a note.
    """
    left: Undecrypted = {}
    if is_encrypted(task.data):
        try:
            payload = _known(encryption, task.data).open_payload(task.id, task.handler, task.data)
        except CodecError as error:
            left["payload"] = _words(error, "the payload is ")
        else:
            task.payload, task.data, task.payload_form = payload.text, payload.data, payload.form  # type: ignore[assignment]
    if is_encrypted(task.result_data):
        try:
            result = _known(encryption, task.result_data).open_result(task.id, task.result_data)
        except CodecError as error:
            left["result"] = _words(error, "the result is ")
        else:
            task.result, task.result_data, task.result_is_empty_data = result
    if task.HasField("failure"):
        task.failure.message = open_texts(task.id, task.failure.message, encryption)
        task.failure.traceback = open_texts(task.id, task.failure.traceback, encryption)
    if task.HasField("progress"):
        task.progress.message = open_texts(task.id, task.progress.message, encryption)
    for attempt in task.attempts:
        attempt.reason = open_texts(task.id, attempt.reason, encryption)
    if task.waiting_reason:
        task.waiting_reason = open_texts(task.id, task.waiting_reason, encryption)
    return left


def open_texts(id: str, words: str, encryption: Encryption | None) -> str:
    """Decrypts each encrypted text in these words, which are about a task; those that cannot be become a note."""
    return hide_texts(words) if encryption is None else encryption.open_texts(id, words)


def _known(encryption: Encryption | None, data: bytes) -> Encryption:
    if encryption is None:
        envelope = envelope_of(data)
        assert envelope is not None
        raise CodecError(f"{envelope.told}: {_HOW}")
    return encryption


def _words(error: CodecError, what: str) -> str:
    return str(error).removeprefix(what)
