"""What a checkpoint is as it travels: a letter that says how to read it, and the state. The leader reads none of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gowork.base import values
from gowork.proto import limits

_JSON, _DATA, _ENCRYPTED = b"j", b"b", b"e"
#: Encrypts and decrypts a state.
Seal = Callable[[bytes], bytes]


def written(state: object, seal: Seal | None) -> bytes:
    """Returns a state as it travels.

    Args:
        state: bytes, or anything that can be written as JSON.
        seal: encrypts it; None where nothing is encrypted.

    Raises:
        ValueError: when it cannot be written, or is too long.
    """
    try:
        text, data = values.encode_result(state)
    except values.ValueRefused as error:
        raise ValueError(f"state: {error}") from error
    plain = _JSON + text.encode() if text else _DATA + data
    found = plain if seal is None else _ENCRYPTED + seal(plain)
    if len(found) > limits.CHECKPOINT_BYTES_MAX:
        most = limits.CHECKPOINT_BYTES_MAX
        raise ValueError(
            f"state: it takes {len(found):,} bytes and the limit is {most:,}; keep it elsewhere, and say where"
        )
    return found


def read(found: bytes, unseal: Seal | None) -> Any:
    """Returns the state that was written so; None when there is none.

    Raises:
        ValueError: when it was not written by `written`, or is encrypted and cannot be decrypted here.
    """
    if found[:1] == _ENCRYPTED:
        if unseal is None:
            raise ValueError("the checkpoint is encrypted, and the payload of its task is not")
        found = unseal(found[1:])
    if found[:1] == _JSON:
        return msgspec.json.decode(found[1:])
    if found[:1] == _DATA:
        return found[1:]
    if found:
        raise ValueError("the checkpoint was not made by ctx.checkpoint of a gowork worker")
    return None
