"""Installs gowork-all by its name from an index, as a newcomer would: `python3 tests/release/run_newcomer.py DIR`.

DIR has what `nox -s release -- --rehearse` has built. It is published to an index on 127.0.0.1, in the order of what
needs what. Then the name alone is installed into a new environment, which asks another index for what is not gowork's.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from loopback_index import loopback_index
from release_install import install, try_installed
from release_papers import package_of, packages
from release_publish import publish
from release_siblings import closure_of

ROOT = Path(__file__).resolve().parents[2]


def main(built: Path) -> None:
    """Publishes, installs and tries."""
    known = packages(ROOT)
    # What needs the fewest comes first.
    ordered = sorted(known.values(), key=lambda package: (len(closure_of(package, known)), package.name))
    with tempfile.TemporaryDirectory(prefix="gowork-newcomer-") as name, loopback_index(Path(name) / "index") as index:
        for package in ordered:
            uploaded = publish(ROOT, package, built / f"{package.name}-{package.version}", index)
            print(f"published {', '.join(uploaded)}", flush=True)
        home = Path(name) / "home"
        install(home, sys.executable, ["--index", index.simple_url, "--refresh", "gowork-all"])
        try_installed(package_of(ROOT, "gowork-all"), home, Path(name) / "work")
    print("gowork-all was installed by its name; gowork up, add and show work", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
