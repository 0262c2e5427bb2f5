"""Writes files whole: readers see the old content or the new one, and never half of it.

Owns who may read and change what it writes. It takes no care of folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: Whoever may do this to a secret file besides its owner could read or replace secrets. Its group may read it, because
#: containers and systemd hand secrets to a group.
SECRET_FORBIDDEN = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
_SECRET_MODE, _PUBLIC_MODE = 0o600, 0o644
#: Where the file system has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}


def write_whole(path: Path, content: bytes, *, is_secret: bool) -> None:
    """Writes a file in one step, in the place of an old one if there is one.

    A new file may be read by its owner alone if it is secret, and by everybody otherwise, whatever the umask. One that
    takes an old one's place keeps its owner and mode; of a secret one's mode what SECRET_FORBIDDEN forbids is left out.

    Raises:
        OSError: it can't be written. The old file is as it was.
    """
    # A symbolic link stays one: what it leads to is replaced.
    path = Path(os.path.realpath(path))
    with _prepared(path, content, is_secret=is_secret) as prepared:
        with contextlib.suppress(FileNotFoundError):
            _take_after(path, prepared, is_secret=is_secret)
        os.replace(prepared, path)


def write_new(files: dict[Path, tuple[bytes, bool]]) -> None:
    """Writes several new files, all or none. None is written over another.

    Args:
        files: {path: (content, whether it is secret)}.

    Raises:
        FileExistsError: one is there already.
        OSError: one can't be written.
    """
    made: list[Path] = []
    with contextlib.ExitStack() as stack:
        prepared = {
            path: stack.enter_context(_prepared(path, content, is_secret=is_secret))
            for path, (content, is_secret) in files.items()
        }
        try:
            for path, temporary in prepared.items():
                _place(temporary, path)
                made.append(path)
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _prepared(path: Path, content: bytes, *, is_secret: bool) -> Iterator[Path]:
    """Has the content on disk in a file beside `path`. What is left of that file at the end is removed."""
    # mkstemp lets only the owner read what it makes.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.chmod(temporary, _SECRET_MODE if is_secret else _PUBLIC_MODE)
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _take_after(path: Path, temporary: Path, *, is_secret: bool) -> None:
    """Gives a file the owner and mode of another one, because that may be what lets others have it."""
    known = path.stat()
    os.chmod(temporary, stat.S_IMODE(known.st_mode) & ~(SECRET_FORBIDDEN if is_secret else 0))
    if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(temporary, known.st_uid, known.st_gid)


def _place(temporary: Path, path: Path) -> None:
    """Names a file `path`, if nothing has that name.

    Raises:
        FileExistsError: something has.
    """
    try:
        # Renaming would replace what somebody has put there since.
        os.link(temporary, path)
    except OSError as error:
        if error.errno == errno.EEXIST or (error.errno in _NO_LINKS and os.path.lexists(path)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        if error.errno not in _NO_LINKS:
            raise
        os.replace(temporary, path)
