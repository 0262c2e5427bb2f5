"""Reads a payload that is given as an argument."""

from __future__ import annotations

import sys

import msgspec


def payload_of(word: str) -> msgspec.Raw | bytes:
    """Returns the payload that an argument gives; - stands for standard input, unchanged.

    It is text if it is UTF-8, else bytes. The handler's type says whether the text is JSON.
    """
    data = sys.stdin.buffer.read() if word == "-" else word.encode(errors="surrogateescape")
    try:
        data.decode()
    except UnicodeDecodeError:
        return data
    return msgspec.Raw(data)
