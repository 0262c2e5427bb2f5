"""The store's files: who may use them, whether they are a store, and how a new one is made.

Nothing here changes a database that is there already. Invariant ALONE: a process that opens the database holds two
locks. One is on the database file itself, so that no other name of the file gets around it. The other is on
`PATH.lock`, which versions up to 0.1.0 look at. The kernel releases both when the process ends, however it ends.

The descriptor that holds the database's lock is opened before SQLite opens the file, and closed after SQLite has closed
it. Nothing else in the process may open and close that file meanwhile, because closing any descriptor of a file drops
the locks that SQLite has on it. https://www.sqlite.org/howtocorrupt.html §2.2
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from pathlib import Path
from urllib.parse import quote

import apsw

from gowork.base.directories import make_directory, sync_directory
from gowork.leader.store._sqlite_errors import damaged, reported
from gowork.leader.store._sqlite_schema import (
    ADDED_TO_2,
    APPLICATION_ID,
    FORMAT,
    FORMAT_LOGGED,
    META_OF_4,
    SQLITE_VERSION_MIN,
    TABLES,
)
from gowork.leader.store.protocol import StoreError, StoreFormatError, StoreLockedError, StoreLostError

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
#: How long a statement waits for another program's lock, in milliseconds, unless it is told otherwise.
_BUSY_MS = 5_000
#: Up to this size all pages are checked before the store is used, which takes a tenth of a second.
_CHECKED_BYTES_MAX = 64 << 20


def check_library() -> None:
    """Checks that SQLite can do what the store needs. The wheels of apsw bring a new one; other builds may not.

    Raises:
        StoreError: it can't.
    """
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < SQLITE_VERSION_MIN:
        needed = ".".join(map(str, SQLITE_VERSION_MIN))
        raise StoreError(
            f"SQLite {needed} or newer is needed, and apsw uses {version} here: install apsw from the package index."
        )
    probe = apsw.Connection(":memory:")
    try:
        probe.execute("SELECT json_group_array(value) FROM json_each('[]')")
    except apsw.Error as error:
        raise StoreError(
            "apsw uses a SQLite here that was built without JSON: install apsw from the package index."
        ) from error
    finally:
        probe.close()


#: (device, inode) of each database whose lock this process holds.
_held: set[tuple[int, int]] = set()


class FileLock:
    """Keeps other processes away from the database, with the lock that `hold` takes on it and with `PATH.lock`."""

    def __init__(self, path: Path) -> None:
        """Takes the lock on `PATH.lock`, and on the database if there is one.

        Raises:
            StoreLockedError: another process has the lock, or this one has it already.
            StoreError: the lock file can't be written, or the database has a second name (a hard link).
        """
        self._path = path
        self._database: int | None = None
        #: (device, inode) of the database, and of its log; None before the lock is taken.
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None
        try:
            make_directory(path.parent)
            self._fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise _in_use(path, f"process {holder}") from error
        except OSError:
            # The process id in the file is only for people, and the leader must start when the disk is full.
            pass
        try:
            self.hold()
        except BaseException:
            self.release()
            raise

    def hold(self) -> None:
        """Takes the lock on the database that is at the path now, if there is one and this lock does not hold it yet.

        Raises:
            StoreLockedError: another process has the lock, or this one has it already.
            StoreError: the database can't be opened, or has a second name.
        """
        try:
            # Looked at by its name, before it is opened: a file that SQLite uses must not be opened and closed here.
            look = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise unwritable(self._path, error) from error
        if not stat.S_ISREG(look.st_mode):
            kind = "Is a directory" if stat.S_ISDIR(look.st_mode) else "Is no regular file"
            raise StoreError(f"{self._path} can't hold a store: {kind}. Name another place.")
        if look.st_nlink > 1:
            raise StoreError(
                f"{self._path} has {look.st_nlink} names (hard links), and only one of them has its log beside it. "
                f"Keep one name. To copy the store, use `gowork store backup`."
            )
        if self._identity == _identity(look):
            return
        if _identity(look) in _held:
            # It is not even opened, because closing it would drop the locks that SQLite has for the open store.
            raise _in_use(self._path, "by another name, or its lock file was removed")
        try:
            database = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise unwritable(self._path, error) from error
        try:
            fcntl.flock(database, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(database)
            raise _in_use(self._path, "by another name, or its lock file was removed") from error
        # Releases the lock of an empty file that `create` has replaced. SQLite has not opened that file.
        self._let_go()
        self._database, self._identity = database, _identity(look)
        _held.add(self._identity)

    def make_private(self) -> None:
        """Takes from other users the right to read a database that a version up to 0.1.0 made."""
        if self._database is not None and stat.S_IMODE(os.fstat(self._database).st_mode) & 0o077:
            with contextlib.suppress(OSError):
                os.fchmod(self._database, 0o600)

    def watch_log(self) -> None:
        """Remembers which file the log is. From now on `check` checks it too."""
        self._log_identity = _identity(os.stat(f"{self._path}-wal", follow_symlinks=False))

    def check(self) -> None:
        """Checks that the database and the log are still at their paths.

        Raises:
            StoreLostError: one of them was moved, deleted or replaced.
        """
        for path, identity in ((str(self._path), self._identity), (f"{self._path}-wal", self._log_identity)):
            try:
                held = _identity(os.stat(path, follow_symlinks=False)) == identity
            except OSError:
                held = False
            if not held:
                raise StoreLostError(
                    f"{path} was moved, deleted or replaced while the leader used it. Nothing more is accepted, "
                    f"because nobody would find it again. Put the store back, or restore a backup, and start the "
                    f"leader."
                )

    def release(self) -> None:
        """Releases both locks. SQLite must have closed the database.

        The file `PATH.lock` stays, because without it two processes could lock two files of one name.
        """
        self._let_go()
        os.close(self._fd)

    def _let_go(self) -> None:
        if self._database is not None and self._identity is not None:
            os.close(self._database)
            _held.discard(self._identity)
            self._database = self._identity = None


def format_at(path: Path, *, writable: bool = True, check_all: bool = False) -> int:
    """Returns the format of the store at this path; 0 when there is nothing, so that a store may be created.

    Args:
        path: where the store is.
        writable: also refuse a file that can't be written.
        check_all: check all pages, however large the store is.

    Raises:
        StoreFormatError: there is something that this version can't use.
        StoreError: the file can't be read, or not be written.
    """
    log_bytes = _size(Path(f"{path}-wal"))
    try:
        # Opened for writing, so that a read-only file is refused before SQLite puts its side files beside it.
        with path.open("r+b" if writable else "rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        header, size = b"", 0
    except OSError as error:
        raise unwritable(path, error) from error
    if not size:
        if log_bytes:
            raise StoreFormatError(
                f"{path} is missing or empty, but its log {path}-wal is there. Put the database back beside it, "
                f"or move the log away."
            )
        return 0
    _check_header(path, header, size, log_bytes)
    return _check_content(path, size, log_bytes, check_all=check_all)


def create(path: Path) -> None:
    """Makes an empty store under another name, and renames it when it is whole."""
    building = Path(f"{path}.new")
    try:
        clear(building)
        os.close(make_file(building))
        with reported(str(path)):
            connection = connect(building)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("BEGIN")
                for statement in (*TABLES[FORMAT], *ADDED_TO_2.values()):
                    connection.execute(statement)
                connection.executemany(
                    "INSERT INTO meta VALUES (?, ?)", [("identity", secrets.token_hex(16)), *META_OF_4.items()]
                )
                connection.execute("COMMIT")
                mode = connection.execute("PRAGMA journal_mode = WAL").get
            finally:
                connection.close()
        if mode != "wal":
            raise StoreError(f"{path.parent} can't hold a store: SQLite's write-ahead log needs a local file system.")
        building.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error


def make_file(path: Path) -> int:
    """Makes a file that only this user may use, in place of what is there, and returns a descriptor for writing.

    A link that is there is removed, never followed.

    Raises:
        OSError: the file can't be made.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def connect(path: Path, *, read_only: bool = False, immutable: bool = False) -> apsw.Connection:
    """Opens the database. Callers begin and end transactions themselves."""
    connection = apsw.Connection(
        f"file:{quote(os.fsencode(path))}?immutable={int(immutable)}",
        apsw.SQLITE_OPEN_URI | (apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE),
        statementcachesize=256,
    )
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    return connection


def unwritable(path: Path, error: OSError) -> StoreError:
    """Returns the error for a place that can't be written."""
    return StoreError(
        f"{path} can't be written: {error.strerror or error}. The leader's user must be able to write the file "
        f"and its directory."
    )


def _check_header(path: Path, header: bytes, size: int, log_bytes: int) -> None:
    # The header is read here, because SQLite makes side files beside a file that it opens.
    # https://www.sqlite.org/fileformat2.html §1.3
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise StoreFormatError(
            f"{path} is no SQLite database. It was left as it is; name another file, or move it away."
        )
    application_id = int.from_bytes(header[68:72], "big")
    if application_id != APPLICATION_ID:
        raise StoreFormatError(
            f"{path} is a SQLite database of another program. It was left as it is; name another file, or move it away."
        )
    _check_format(path, int.from_bytes(header[60:64], "big"))
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = int.from_bytes(header[28:32], "big")
    pages_known = header[24:28] == header[92:96]
    # If there is a log, the missing pages may be in it, because a checkpoint was cut short.
    if pages_known and not log_bytes and pages * page_bytes > size:
        raise damaged(str(path), f"it should have {pages * page_bytes} bytes and has {size}")


def _check_format(path: Path, version: int) -> None:
    if version > FORMAT_LOGGED:
        raise StoreFormatError(
            f"{path} has format {version}; this version of gowork-leader reads formats up to {FORMAT_LOGGED}. It was "
            f"left as it is. Install the version that wrote it, or a newer one."
        )
    if version < 1:
        raise damaged(str(path), "it has no format number")


def _check_content(path: Path, size: int, log_bytes: int, *, check_all: bool) -> int:
    # Without a log the database is opened as immutable, which makes no side files. With one it must be read through the
    # log.
    with reported(str(path)):
        connection = connect(path, read_only=True, immutable=not log_bytes)
        try:
            version = connection.execute("PRAGMA user_version").get
            _check_format(path, version)
            found = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
            if not found.issuperset(TABLES[version]):
                raise damaged(str(path), "tables or indexes are missing")
            # A store of format 1 is checked whole, because the migration rewrites all of it.
            if size + log_bytes <= _CHECKED_BYTES_MAX or version == 1 or check_all:
                complaint = connection.execute("PRAGMA quick_check(1)").get
                if complaint != "ok":
                    raise damaged(str(path), complaint)
            keys = {row[0] for row in connection.execute("SELECT key FROM meta")}
            if not keys.issuperset({"identity", "term"}):
                raise damaged(str(path), "its identity is missing")
            return int(version)
        finally:
            connection.close()


def _in_use(path: Path, holder: str) -> StoreLockedError:
    return StoreLockedError(
        f"{path} is in use by another leader ({holder}). Stop that one first, or give this leader "
        f"a database of its own with --data-dir."
    )


def _identity(look: os.stat_result) -> tuple[int, int]:
    return look.st_dev, look.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def clear(path: Path) -> None:
    """Removes an unfinished database with its side files."""
    for leftover in (path, Path(f"{path}-wal"), Path(f"{path}-shm"), Path(f"{path}-journal")):
        leftover.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Makes a file durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
