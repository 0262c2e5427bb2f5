"""Builds the images of deploy/docker and runs a cluster from them: `python tests/deploy/run_images.py FOLDER`.

No engine of containers is needed: buildah builds in a chroot, on a base that debootstrap makes. Each container is a
chroot in namespaces of its own: the root is read-only, the user is the image's, /tmp is empty, and the words that run
are those of the image. Where there is systemd-nspawn, a real systemd then runs the units of deploy/systemd.

It needs root, and the package index and Debian's mirror that the machine is set up for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.append(str(Path(__file__).parent))

from run_units import check_units

ROOT = Path(__file__).parents[2]
ROLES = ("leader", "worker", "cli")
#: The Debian whose Python the packages support at least.
SUITE = "bookworm"
#: systemd is for the units alone, which run on the same base.
PACKAGES = ("python3", "python3-venv", "ca-certificates", "systemd-sysv", "dbus")
BASE = "localhost/gowork-base"
#: Certificates of authorities, which the machine may have more of than Debian's.
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
PATIENCE = 60.0
#: What must not be in an image. The base has neither.
TOOLS = {"cc", "gcc", "make", "pip", "pip3", "hatchling", "uv"}
#: {role: where the container's folder is mounted}.
MOUNTED = {"leader": "/data", "worker": "/handlers"}
#: A module of handlers, as docs/containers.md mounts one.
HELLO = """\
from gowork.worker import handler

@handler("hello")
def hello(payload: dict[str, str]) -> str:
    return f"hello {payload['name']}"
"""
#: In namespaces of its own for files, processes and messages. The network is this machine's.
ALONE = ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
#: Makes the root read-only and what must be writable new, and becomes the image's user in it.
ENTER = """\
set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$ROOT/tmp"
mount --bind /dev "$ROOT/dev"
if [ -n "$MOUNTED" ]; then mount --bind "$FOLDER_OUTSIDE" "$ROOT$MOUNTED"; fi
mount -o remount,bind,ro "$ROOT"
exec setpriv --no-new-privs chroot --userspec="$ID" --groups= "$ROOT" /usr/bin/env -i --chdir="$FOLDER" "$@"
"""


def run(*words: str | Path, **options: Any) -> str:
    """Runs a command to its end, and returns its standard output."""
    return subprocess.run([*map(str, words)], check=True, stdout=subprocess.PIPE, text=True, **options).stdout


class Images:
    """Builds images, and keeps them in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buildah = ["buildah", "--storage-driver=vfs", f"--root={folder}/images", f"--runroot={folder}/run"]

    def make_base(self) -> None:
        """Makes the base: Debian with Python, and nothing to compile with."""
        archive = self._folder / "base.tar"
        if not archive.exists():
            base = self._folder / "base"
            shutil.rmtree(base, ignore_errors=True)
            run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, base)
            shutil.rmtree(base / "var/cache/apt")
            run("tar", "-C", base, "-cf", self._folder / "base.new", ".")
            shutil.rmtree(base)
            (self._folder / "base.new").rename(archive)
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(archive), "/")
        self.buildah("commit", "--quiet", "--format=docker", container, BASE)
        self.buildah("rm", container)

    def build(self, role: str) -> None:
        """Builds the image of a role by its Dockerfile, as it is."""
        index = os.environ.get("PIP_INDEX_URL")
        settings = self._folder / "pip.conf"
        settings.write_text(f"[global]\ncert = {CERTIFICATES}\n" + (f"index-url = {index}\n" if index else ""))
        self.buildah(
            "build-using-dockerfile",
            "--quiet",
            "--isolation=chroot",
            "--format=docker",
            f"--build-arg=BASE={BASE}",
            # The index may be behind a proxy with a certificate of its own.
            f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
            f"--volume={settings}:/etc/pip.conf:ro",
            f"--file={ROOT}/deploy/docker/{role}.Dockerfile",
            f"--tag={name_of(role)}",
            str(ROOT),
        )

    def image(self, role: str) -> Image:
        """Returns the image of a role, mounted."""
        said = json.loads(self.buildah("inspect", "--type=image", name_of(role)))
        return Image(role, said["Docker"]["config"], self.mounted(name_of(role)))

    def mounted(self, name: str) -> Path:
        """Returns a copy of the files of an image."""
        return Path(self.buildah("mount", self.buildah("from", "--pull-never", name)))

    def buildah(self, *words: str) -> str:
        """Runs buildah, and returns what it prints."""
        return run(*self._buildah, *words).strip()

    def remove(self) -> None:
        """Removes all images and containers."""
        subprocess.run([*self._buildah, "umount", "--all"], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(self._folder / "images", ignore_errors=True)
        shutil.rmtree(self._folder / "run", ignore_errors=True)


class Image:
    """What an image says of itself, and its files."""

    def __init__(self, role: str, config: dict[str, Any], root: Path) -> None:
        self.role = role
        self.root = root
        self.user: str = config["User"]
        self.entrypoint: list[str] = config["Entrypoint"]
        self.probe: list[str] = (config.get("Healthcheck") or {}).get("Test", [])
        self.folder: str = config["WorkingDir"] or "/"
        self.environment: list[str] = config["Env"]
        self.labels: dict[str, str] = config["Labels"]
        self.volumes: list[str] = list(config.get("Volumes") or {})

    def check(self) -> None:
        """Checks what can be told without running it."""
        assert self.user == "10000:10000", self.user
        assert self.labels["org.opencontainers.image.title"] == f"gowork-{self.role}"
        assert self.volumes == (["/data"] if self.role == "leader" else [])
        assert self.probe == (["NONE"] if self.role == "cli" else ["CMD", f"gowork-{self.role}", "--check"]), self.probe
        here = {path.name for path in self.root.glob("opt/gowork/bin/*")}
        found = here | {path.name for folder in ("bin", "local/bin") for path in self.root.glob(f"usr/{folder}/*")}
        assert not found & TOOLS, found & TOOLS
        assert not (self.root / "build").exists()
        assert not (self.root / "src").exists()
        owned = [path for path in (self.root / "opt/gowork").rglob("*") if path.lstat().st_uid]
        assert not owned, owned[:5]


class Container:
    """One process, and what it starts, on a read-only root."""

    def __init__(self, image: Image, words: Sequence[str], folder: Path, **variables: str) -> None:
        self._image = image
        settings = [f"{name}={value}" for name, value in variables.items()]
        self._log = (folder / f"{image.role}.log").open("ab")
        self._process = subprocess.Popen(
            # Signals go to the first process inside, as an engine sends them.
            [*ALONE, "/bin/sh", "-c", ENTER, "sh", *image.environment, *settings, *image.entrypoint, *words],
            env={
                "PATH": os.environ["PATH"],
                "ROOT": str(image.root),
                "FOLDER_OUTSIDE": str(folder),
                "MOUNTED": MOUNTED.get(image.role, ""),
                "ID": image.user,
                "FOLDER": image.folder,
            },
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def line(self) -> str:
        """Returns its next line on standard output."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, Path(self._log.name).read_text()
        return line

    @property
    def first(self) -> psutil.Process:
        """Its first process."""
        until = time.monotonic() + PATIENCE
        while not (inside := psutil.Process(self._process.pid).children()):
            assert time.monotonic() < until, "it has not begun"
        return inside[0]

    def healthy(self) -> tuple[int, str]:
        """Runs the image's health check in it: the exit code, and what it prints."""
        user, group = self._image.user.split(":")
        enter = ["nsenter", f"--target={self.first.pid}", "--mount", "--pid", "--ipc", "--root"]
        enter += [f"--setuid={user}", f"--setgid={group}"]
        words = [*enter, "/usr/bin/env", "-i", f"--chdir={self._image.folder}", *self._image.environment]
        done = subprocess.run([*words, *self._image.probe[1:]], capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, (done.stdout + done.stderr).strip()

    def becomes(self, code: int, words: str) -> None:
        """Waits until the health check says so."""
        until = time.monotonic() + PATIENCE
        while (said := self.healthy()) != (code, words):
            assert time.monotonic() < until, said

    def stop(self) -> None:
        """Stops it as an engine does. It must end with 0."""
        self.first.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0, Path(self._log.name).read_text()

    def output(self) -> str:
        """Waits for its end, and returns the rest of what it prints."""
        out, _ = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, Path(self._log.name).read_text()
        return out

    def kill(self) -> None:
        """Ends it at once, if it still runs."""
        # The signal for the death of a parent does not outlast the change of the user.
        for inside in psutil.Process(self._process.pid).children() if self._process.poll() is None else []:
            inside.kill()
        self._process.kill()
        self._process.communicate(timeout=PATIENCE)
        self._log.close()


@contextmanager
def contained(image: Image, *words: str, folder: Path, **variables: str) -> Iterator[Container]:
    """Runs a container, which is killed at the end when it has not ended."""
    container = Container(image, words, folder, **variables)
    try:
        yield container
    finally:
        container.kill()


def name_of(role: str) -> str:
    """The image's name."""
    return f"localhost/gowork-{role}"


def check_cluster(images: dict[str, Image], folder: Path) -> None:
    """Runs a leader, a worker and the command line, has tasks done, and stops them in order."""
    for name in ("leader", "worker", "cli"):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, 10000, 10000)
    listen = [f"--{name}-listen=127.0.0.1:0" for name in ("cluster", "scheduler", "http")]
    with contained(images["leader"], *listen, "--print-addresses", folder=folder / "leader") as leader:
        at = json.loads(leader.line())
        leader.becomes(0, "ready")
        assert leader.first.uids().real == 10000
        (folder / "worker/hello.py").write_text(HELLO)
        options = ["--leader", at["cluster"], "--slots=2"]
        with contained(images["worker"], *options, folder=folder / "worker", GOWORK_IMPORT="hello") as worker:
            worker.becomes(0, "ok")
            greet = ["--leader", at["scheduler"], "add", "--wait", "--handler=hello", '{"name": "Ada"}']
            with contained(images["cli"], *greet, folder=folder / "cli") as cli:
                said = cli.output()
            assert "hello Ada" in said, said
            command = json.dumps({"command": ["sh", "-c", "id -u; touch /x || echo read-only"]})
            add = ["--leader", at["scheduler"], "add", "--wait", "--handler=shell", command]
            with contained(images["cli"], *add, folder=folder / "cli") as cli:
                said = cli.output()
            assert "10000" in said, said
            assert "read-only" in said, said
            print("a task was done by a container of uid 10000, on a read-only root")
            worker.stop()
        leader.stop()
    with contained(images["worker"], "--leader", at["cluster"], folder=folder / "worker") as worker:
        worker.becomes(1, "no session with a leader")
        worker.stop()
    # What the leader has kept is on its volume.
    with contained(images["leader"], *listen, "--print-addresses", folder=folder / "leader") as leader:
        scheduler = json.loads(leader.line())["scheduler"]
        with contained(images["cli"], "--leader", scheduler, "tasks", folder=folder / "cli") as cli:
            said = cli.output()
        assert "COMPLETED" in said, said
        leader.stop()
    print("health checks, a drain, a stop and a start on the same volume went as they should")


def main(folder: Path) -> None:
    """Builds and runs all images.

    Args:
        folder: keeps the base, for the next time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = Images(folder.resolve())
    try:
        images.make_base()
        made = {}
        for role in ROLES:
            images.build(role)
            made[role] = images.image(role)
            made[role].check()
            print(f"built {role}.Dockerfile", flush=True)
        with tempfile.TemporaryDirectory(prefix="gowork-images-") as data:
            # The image's user must be able to reach the volume.
            Path(data).chmod(0o755)
            check_cluster(made, Path(data))
            if shutil.which("systemd-nspawn"):
                programs = [image.root / "opt/gowork" for image in made.values()]
                check_units(images.mounted(BASE), programs, Path(data) / "console.log")
            else:
                print("not on PATH: systemd-nspawn, which runs the units of deploy/systemd")
    finally:
        images.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
