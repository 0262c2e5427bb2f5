"""Makes virtual environments for tests, without a network: their libraries are links to those of the tests' own."""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path

PLUGIN = '''
import asyncio, os, sys, time
import tiny
from gowork.worker import Context, handler


@handler(name="{name}")
def facts() -> dict:
    """Tells where it runs."""
    return {{
        "tiny": tiny.VERSION,
        "prefix": sys.prefix,
        "variable": os.environ["VIRTUAL_ENV"],
        "first": os.environ["PATH"].split(os.pathsep)[0],
        "path": os.environ.get("PYTHONPATH", ""),
        "pid": os.getpid(),
    }}


@handler(name="{name}-die")
def die() -> None:
    os._exit(7)


@handler(name="{name}-wait")
async def wait(ctx: Context) -> None:
    ctx.progress(0.1, "waiting")
    await asyncio.Event().wait()


@handler(name="{name}-print")
def prints() -> None:
    print("printed by {name}")
'''


def site_of(path: Path) -> Path:
    return path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def bare(path: Path) -> Path:
    """An environment that has nothing but Python."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(path)
    return path


def equipped(path: Path) -> Path:
    """An environment that has what the tests' own has, except its plugins."""
    bare(path)
    for folder in {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}:
        for entry in folder.iterdir():
            points = entry / "entry_points.txt"
            if entry.name != "__pycache__" and "[gowork.plugins]" not in (
                points.read_text() if points.exists() else ""
            ):
                (site_of(path) / entry.name).symlink_to(entry)
    return path


def install(path: Path, name: str, code: str, version: str = "1.0") -> None:
    """Installs a plugin of one module."""
    module = f"{name}_plugin"
    (site_of(path) / f"{module}.py").write_text(code)
    distribution = site_of(path) / f"{module}-{version}.dist-info"
    distribution.mkdir(exist_ok=True)
    (distribution / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n")
    (distribution / "entry_points.txt").write_text(f"[gowork.plugins]\n{name} = {module}\n")


def with_plugin(path: Path, name: str, tiny: str = "1", version: str = "1.0") -> str:
    """An environment with a plugin that needs one version of a library. Returns its path."""
    equipped(path)
    (site_of(path) / "tiny.py").write_text(f"VERSION = {tiny!r}\n")
    install(path, name, PLUGIN.format(name=name), version)
    return str(path)


def faked(path: Path, script: str) -> Path:
    """A folder that has a script in place of Python."""
    (path / "bin").mkdir(parents=True)
    python = path / "bin" / "python"
    python.write_text(script)
    python.chmod(0o755)
    return path
