"""How a leader or a worker is asked on its own machine whether it is ready: `gowork-leader --check`.

The process listens on a unix socket for probes and for nothing else. Whoever asks needs no port, no certificate and
none of the process's options. Only the process's own user and root can connect.

Owns where such sockets are, how they are made and found, and the question. Imports neither gRPC nor the listener,
because a probe that is run every few seconds must cost little. `gowork.base.local_listener` listens.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

#: What a process is.
Role = Literal["leader", "worker"]
#: What is asked: whether it takes work, or whether its event loop turns.
Question = Literal["ready", "alive"]

#: The page that answers each question.
PAGES: dict[Question, str] = {"ready": "/readyz", "alive": "/healthz"}
#: How long to wait for the answer, in seconds. A process whose loop does not turn says so after 5 s.
ANSWER_SECONDS = 8.0
#: How many bytes of an answer are read.
ANSWER_BYTES_MAX = 64 << 10
#: How many sockets are looked at in one directory.
SOCKETS_MAX = 256
#: How old a socket is, at least, when it is removed because nobody listens there, in seconds. A new one may have an
#: owner that listens in a moment.
STALE_SECONDS = 60.0
#: How long the path of a unix socket may be, in bytes, on every system (sockaddr_un.sun_path has 108 on Linux, 104 on
#: others, and the last one is 0).
PATH_BYTES_MAX = 103
_SUFFIX = ".sock"
#: Where temporary files are when the environment does not say.
_TEMPORARY = Path("/tmp")  # noqa: S108 - whose the directory is that is used there is checked


def given_directory() -> Path | None:
    """Returns the directory that systemd has made for this process alone; None when there is none."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if os.path.isabs(given) else None


def session_directory() -> Path | None:
    """Returns the directory among those of this user's login session; None outside of one."""
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(session, "gowork") if os.path.isabs(session) and os.path.isdir(session) else None


def own_directory() -> Path:
    """Returns the directory of this user among temporary files."""
    try:
        return _own_in(Path(tempfile.gettempdir()))
    except FileNotFoundError:
        # Nothing can be written anywhere, as in a read-only container without a /tmp of its own.
        return _own_in(_TEMPORARY)


def prefix_of(role: Role, name: str | None) -> str:
    """Returns how the names of sockets begin: those of all instances of a role, or of one name."""
    # A name may have characters that a file name can't, and may be long.
    return f"{role}-" if name is None else f"{role}-{hashlib.sha256(name.encode()).hexdigest()[:12]}-"


def check(role: Role, name: str | None = None, question: Question = "ready") -> tuple[bool, str]:
    """Asks the leader or the worker that runs on this machine.

    Where several run, they are told apart by their names. The first directory where any listens counts.

    Args:
        role: which of the two.
        name: its name; None: the only one here.
        question: what is asked.

    Returns:
        Whether the answer is yes, and the process's own words, or why it can't be asked, in one line.
    """
    denied: list[str] = []
    with contextlib.ExitStack() as stack:
        for directory in _directories(role):
            found = [stack.enter_context(each) for each in _connections(directory, prefix_of(role, name), denied)]
            if len(found) > 1:
                numbers = ", ".join(map(str, sorted(map(_process_of, found))))
                return False, f"{len(found)} {role}s run here, processes {numbers}; say which by --name"
            if found:
                return _asked(found[0], PAGES[question], role)
    named = f"no {role}" if name is None else f"no {role} with the name {name!r}"
    if denied:
        return False, f"{named} can be asked by this user: {denied[0]}; ask as the {role}'s own user, or as root"
    return False, f"{named} runs here"


def check_and_exit(role: Role, name: str | None = None, question: Question = "ready") -> NoReturn:
    """Asks, prints the words and ends the process: with 0 when the answer is yes, else with 1."""
    good, words = check(role, name, question)
    with contextlib.suppress(OSError):
        print(words, file=sys.stdout if good else sys.stderr, flush=True)
    sys.exit(0 if good else 1)


def is_plain_check(arguments: list[str]) -> bool:
    """Whether a command line asks this question and has no other option, as a container's health check does.

    Then the program itself need not be imported, which takes ten times as long as the question.
    """
    return arguments == ["--check"] and not {"GOWORK_CONFIG", "GOWORK_CHECK"} & os.environ.keys()


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yields a path to bind or connect a unix socket to, because a path may be longer than the system takes."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def remove_stale(directory: Path, role: Role) -> None:
    """Removes sockets where nobody listens any more, because their owners were killed."""
    with contextlib.suppress(OSError):
        for path in _sockets(directory, prefix_of(role, None)):
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime <= STALE_SECONDS:
                    continue
                connection = _connected(path, 0)
                if connection is None:
                    path.unlink()
                else:
                    connection.close()


def _directories(role: Role) -> Iterator[Path]:
    """Yields where the instance's socket may be, also when its environment differs from this process's."""
    # The second is what systemd makes for the units of deploy/systemd.
    for directory in (given_directory(), Path(f"/run/gowork-{role}")):
        if directory is not None:
            yield directory
    others = (session_directory(), Path(f"/run/user/{os.geteuid()}/gowork"), own_directory(), _own_in(_TEMPORARY))
    for directory in dict.fromkeys(others):
        with contextlib.suppress(OSError):
            # Another user could make a directory of this name among temporary files, and answer from there.
            if directory is not None and directory.stat().st_uid == os.geteuid():
                yield directory


def _own_in(directory: Path) -> Path:
    return directory / f"gowork-{os.geteuid()}" / "probes"


def _sockets(directory: Path, prefix: str) -> list[Path]:
    """Returns the sockets with this prefix.

    Raises:
        OSError: the directory is not there, or may not be read.
    """
    found = [Path(each) for each in os.scandir(directory) if each.name.startswith(prefix)]
    return sorted(path for path in found if path.name.endswith(_SUFFIX))[:SOCKETS_MAX]


def _connections(directory: Path, prefix: str, denied: list[str]) -> Iterator[socket.socket]:
    """Yields a connection to each process that listens in a directory. Notes where this user may not ask."""
    try:
        sockets = _sockets(directory, prefix)
    except FileNotFoundError:
        return
    except OSError as error:
        denied.append(f"{directory}: {error.strerror}")
        return
    for path in sockets:
        try:
            connection = _connected(path, ANSWER_SECONDS)
        except OSError as error:
            denied.append(f"{path}: {error.strerror or error}")
            continue
        if connection is not None:
            yield connection


def _connected(path: Path, seconds: float) -> socket.socket | None:
    """Returns a connection; None when nobody listens there any more.

    Args:
        path: the socket.
        seconds: how long to wait for it; 0: not at all.

    Raises:
        OSError: this user may not connect, or can't in that time.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(seconds)
    try:
        with short_path(path) as short:
            connection.connect(short)
    except (ConnectionRefusedError, FileNotFoundError):
        connection.close()
        return None
    except OSError:
        connection.close()
        raise
    return connection


def _process_of(connection: socket.socket) -> int:
    """Returns the process at the other end of a connection; 0 where the system does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return 0
    size = struct.calcsize("3i")
    return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0])


def _asked(connection: socket.socket, page: str, role: Role) -> tuple[bool, str]:
    request = http.client.HTTPConnection("localhost", timeout=ANSWER_SECONDS)
    request.sock = connection
    try:
        request.request("GET", page)
        response = request.getresponse()
        words = response.read(ANSWER_BYTES_MAX).decode(errors="replace")
    except TimeoutError:
        return False, f"the {role} has not answered for {ANSWER_SECONDS:g} s"
    except (OSError, http.client.HTTPException) as error:
        return False, f"the {role} ended before it answered ({str(error) or type(error).__name__})"
    return response.status == http.client.OK, " ".join(words.split()) or response.reason
