"""Makes small releases for tests."""

from __future__ import annotations

import zipfile
from pathlib import Path

from release_build import SUMS, digest

_METADATA = "Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"


def make_wheel(folder: Path, name: str, version: str, text: str = "") -> str:
    """Makes a wheel with this text in it, and its digest's file; returns the wheel's name."""
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some.py", text)
        wheel.writestr(f"{stem}.dist-info/METADATA", _METADATA.format(name=name, version=version))
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    (folder / SUMS).write_text(f"{digest(path)}  {path.name}\n")
    return path.name
