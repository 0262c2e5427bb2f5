"""Files of keys: one key on each line, as `ID KEY`. The first encrypts, all of them decrypt.

Owns who may read such a file, what it may hold, and when it is read again. A bad new file is reported, and the keys of
the old one stay. Nothing here prints or logs a key.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from gowork.base.codecs import CodecSetupError
from gowork.base.file_writing import SECRET_FORBIDDEN, write_whole

logger = logging.getLogger("gowork.keys")

#: Bytes of a key.
KEY_BYTES = 32
#: Most keys in a file, and most bytes of it.
KEYS_MAX = 64
FILE_BYTES_MAX = 64 << 10
#: What an id of a key may be.
ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: The file is looked at again at most this often, in seconds.
LOOK_SECONDS = 1.0
_HEADER = """\
# Keys of gowork, one on each line. The first encrypts, all of them decrypt. Whoever has them can read every task.
"""


def new_key() -> tuple[str, bytes]:
    """Makes a key with an id that tells the day and is unique."""
    return f"{datetime.now(UTC):%Y-%m-%d}-{secrets.token_hex(3)}", secrets.token_bytes(KEY_BYTES)


def parse(text: str, name: str) -> dict[str, bytes]:
    """Reads the lines of a file. Empty lines, and lines that begin with #, are left out.

    Args:
        text: the content.
        name: the file's name, for errors, which never repeat a line.

    Raises:
        CodecSetupError: when a line is no key, an id is there twice, or there are none or too many.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"keys: {name}, line {number}"
        if len(words) != 2 or not ID_PATTERN.fullmatch(words[0]):
            raise CodecSetupError(
                f"{where}: not `ID KEY`, with an id of 1 to 64 letters, digits, dots, dashes and underscores"
            )
        try:
            key = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            raise CodecSetupError(f"{where}: the key is not base64") from None
        if len(key) != KEY_BYTES:
            raise CodecSetupError(f"{where}: the key has {len(key)} bytes, not {KEY_BYTES}")
        if words[0] in keys:
            raise CodecSetupError(f"{where}: the id {words[0]!r} is there twice")
        if key in keys.values():
            raise CodecSetupError(f"{where}: the key is there twice, under two ids")
        keys[words[0]] = key
    if not keys:
        raise CodecSetupError(f"keys: {name} has no key: make one with `gowork keys new {name}`")
    if len(keys) > KEYS_MAX:
        raise CodecSetupError(f"keys: {name} has {len(keys)} keys; at most {KEYS_MAX} are taken")
    return keys


def read_file(path: str | Path) -> dict[str, bytes]:
    """Reads a file, once.

    Raises:
        CodecSetupError: when it cannot be read, others may read it, or its content is at fault.
    """
    return _read(str(path))[0]


def check_file(path: str | Path) -> None:
    """Checks that a file is there and that nobody else may read it. It is not read.

    Raises:
        CodecSetupError: when it is at fault.
    """
    descriptor = _open(str(path))
    try:
        _check(os.fstat(descriptor), str(path))
    finally:
        os.close(descriptor)


def write_file(path: Path, keys: Mapping[str, bytes]) -> None:
    """Writes keys to a file that only its owner may read, in one step, so that no reader sees half of it.

    Raises:
        OSError: when it cannot be written.
    """
    lines = "".join(f"{id} {base64.b64encode(key).decode()}\n" for id, key in keys.items())
    write_whole(path, (_HEADER + lines).encode("ascii"), is_secret=True)


class KeyFile:
    """The keys of a file, read again when it has changed. Its methods may be called from any thread."""

    def __init__(self, path: str) -> None:
        """Reads the file.

        Raises:
            CodecSetupError: as read_file does.
        """
        self.path = path
        self._lock = threading.Lock()
        keys, self._seen = _read(path)
        #: {id: key}, the first first. Replaced whole.
        self._keys: Mapping[str, bytes] = MappingProxyType(keys)
        self._look_at = time.monotonic() + LOOK_SECONDS

    def keys(self) -> Mapping[str, bytes]:
        """Returns {id: key}, in the order of the file. It is at most LOOK_SECONDS old."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._keys

    def get(self, id: str) -> bytes | None:
        """Returns a key; None when there is none of that id, also not in the file as it is now."""
        key = self.keys().get(id)
        if key is None:
            self._look()
            key = self._keys.get(id)
        return key

    def _look(self) -> None:
        with self._lock:
            self._look_at = time.monotonic() + LOOK_SECONDS
            seen = _signature_of(self.path)
            if seen == self._seen:
                return
            try:
                keys, seen = _read(self.path)
            except CodecSetupError as error:
                logger.warning("the keys are not read again, and the old ones stay", extra={"reason": str(error)})
            else:
                self._keys = MappingProxyType(keys)
                logger.info("the keys were read again", extra={"keys": ",".join(keys)})
            # Also of a bad file, so that it is reported once.
            self._seen = seen


#: What tells one state of a file from another; None when there is no file.
_Signature = tuple[int, ...] | None


def _signature_of(path: str) -> _Signature:
    try:
        return _signature(os.stat(path))
    except OSError:
        return None


def _signature(known: os.stat_result) -> _Signature:
    # With the time of the last change of its mode, which can't be set.
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns, known.st_ctime_ns


def _read(path: str) -> tuple[dict[str, bytes], _Signature]:
    descriptor = _open(path)
    try:
        known = os.fstat(descriptor)
        _check(known, path)
        # One byte more than may be there, because the file may grow meanwhile.
        content = b""
        while len(content) <= FILE_BYTES_MAX and (part := os.read(descriptor, FILE_BYTES_MAX + 1 - len(content))):
            content += part
    except OSError as error:
        raise CodecSetupError(f"keys: {path}: {error.strerror or error}") from None
    finally:
        os.close(descriptor)
    if len(content) > FILE_BYTES_MAX:
        raise CodecSetupError(f"keys: {path} has over {FILE_BYTES_MAX:,} bytes")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise CodecSetupError(f"keys: {path} is not a text of ASCII characters") from None
    return parse(text, path), _signature(known)


def _open(path: str) -> int:
    try:
        # A pipe must not make the process wait for whoever writes into it.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        hint = f": make one with `gowork keys new {path}`" if isinstance(error, FileNotFoundError) else ""
        raise CodecSetupError(f"keys: {path}: {error.strerror or error}{hint}") from None
    except ValueError as error:
        raise CodecSetupError(f"keys: {path!r:.200}: {error}") from None


def _check(known: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(known.st_mode):
        raise CodecSetupError(f"keys: {path} is not a file")
    if known.st_mode & SECRET_FORBIDDEN and os.name == "posix":
        mode = stat.S_IMODE(known.st_mode)
        raise CodecSetupError(
            f"keys: {path} has mode {mode:04o}, so that others may read or change it: chmod 600 {path}"
        )
