"""A real file system of the kind that a program serves (FUSE), with nothing in it."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Of the kernel's fuse.h: requests that a directory's attributes need.
_LOOKUP, _FORGET, _GETATTR, _INIT = 1, 2, 3, 26
_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")


def _serve(descriptor: int) -> None:
    """Answers as a file system with an empty root directory that belongs to this user, until it is unmounted."""
    attributes = struct.pack(
        "<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40700, 2, os.getuid(), os.getgid(), 0, 0, 0
    )
    answers = {
        _INIT: struct.pack("<IIIIHHI", 7, 31, 65536, 0, 1, 1, 65536) + bytes(40),
        _GETATTR: struct.pack("<QII", 0, 0, 0) + attributes,
    }
    while True:
        try:
            request = os.read(descriptor, 1 << 20)
        except OSError:
            return
        _, operation, unique, *_ = _IN_HEADER.unpack_from(request)
        if operation == _FORGET:
            continue
        body = answers.get(operation, b"")
        error = 0 if body else -2 if operation == _LOOKUP else -38
        os.write(descriptor, _OUT_HEADER.pack(_OUT_HEADER.size + len(body), error, unique) + body)


@contextmanager
def served_folder(within: Path) -> Iterator[Path]:
    """A folder that a program serves, as sshfs and Mountpoint for S3 do."""
    libc = ctypes.CDLL(None, use_errno=True)
    point = within / "served"
    point.mkdir()
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"there is no FUSE here: {error}")
    options = f"fd={descriptor},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    if libc.mount(b"test", bytes(point), b"fuse.test", 0, options.encode()):
        os.close(descriptor)
        pytest.skip(f"FUSE can't be mounted here: {os.strerror(ctypes.get_errno())}")
    server = threading.Thread(target=_serve, args=(descriptor,))
    server.start()
    try:
        yield point
    finally:
        assert libc.umount2(bytes(point), 2) == 0
        server.join(10)
        os.close(descriptor)
    assert not server.is_alive()
