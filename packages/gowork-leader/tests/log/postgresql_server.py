"""A real PostgreSQL server on this machine, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
from etcd_members import Machine

#: No machine: the server listens on its socket alone.
NOWHERE = Machine("")
#: How long the server may take to answer, in seconds.
START_SECONDS = 120.0
#: Who runs it, because it refuses to be run by root.
USER = "postgres"


class PostgresqlServer:
    """A server that listens on a socket in its folder. It keeps its data when it is killed and started again."""

    def __init__(self, *options: str, machine: Machine = NOWHERE, directory: Path | None = None) -> None:
        """Args:
        options: further ones of `postgres`.
        machine: where it runs, and listens on its usual port; one without a host: here, on the socket alone.
        directory: where its folder is made, which another user must be able to enter; that of temporary files.
        """
        # pytest's own folders can't be entered by another user.
        self._folder = Path(tempfile.mkdtemp(prefix="gowork-pg-", dir=directory))
        self._as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.getuid() == 0 else []
        if self._as_user:
            shutil.chown(self._folder, USER, USER)
        self._options = options
        self._machine = machine
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PostgresqlServer:
        initdb = ["initdb", "--no-sync", "--no-instructions", "--auth=trust", f"--username={USER}", "--encoding=UTF8"]
        try:
            self._run(*initdb, "--locale=C", f"--pgdata={self._folder / 'data'}")
            with (self._folder / "data/pg_hba.conf").open("a") as trusted:
                trusted.write("host all all 10.0.0.0/8 trust\n")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def socket_path(self) -> Path:
        """The path of its socket."""
        return self._folder / ".s.PGSQL.5432"

    @property
    def pid(self) -> int:
        """The process id of the first of its processes."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        listen = f"listen_addresses={self._machine.host}"
        command = ["postgres", "-D", str(self._folder / "data"), "-c", listen, "-k", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            before = log.tell()
            self._process = subprocess.Popen(
                [*self._machine.command, *self._as_user, *command, *self._options], stdout=log, stderr=log
            )
        until = time.monotonic() + START_SECONDS
        while "ready to accept connections" not in self.log[before:]:
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"PostgreSQL does not start: {self.log[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends all of it at once, as a machine that loses its power does."""
        if self._process is None:
            return
        # Its other processes would keep the memory that they share from the next one.
        processes = self._all()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes, timeout=START_SECONDS)
        self._process = None

    def stop(self, seconds_of: signal.Signals = signal.SIGSTOP) -> None:
        """Sends a signal to all of it."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(seconds_of)

    def _all(self) -> list[psutil.Process]:
        assert self._process is not None
        first = psutil.Process(self._process.pid)
        return [first, *first.children()]

    def url(self, schema: str, host: str = "", database: str = "postgres") -> str:
        """The URL of a log."""
        place = f"host={self._folder}&" if not host else ""
        return f"postgresql://{USER}@{host}/{database}?{place}schema={schema}"

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self._as_user, *command], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
