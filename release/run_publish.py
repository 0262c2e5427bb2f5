"""Publishes what `run_release.py` has left: `python3 release/run_publish.py gowork-leader`.

    --from DIR         where the packages' folders are; build/release when left out
    --upload-url URL   where the index takes uploads, and
    --simple-url URL   where its pages of packages begin; the Python Package Index when left out
    --username NAME    who uploads, with the password in UV_PUBLISH_PASSWORD; when left out, GitHub vouches for it

It checks each file against SHA256SUMS, asks the index what it has, and uploads the rest. It may be run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from release_index import Index
from release_papers import ReleaseError, package_of
from release_publish import publish

ROOT = Path(__file__).resolve().parents[1]
UPLOAD_URL = "https://upload.pypi.org/legacy/"
SIMPLE_URL = "https://pypi.org/simple/"


def main(arguments: Sequence[str]) -> int:
    """Publishes the packages that are named, in this order; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    parser.add_argument("--from", dest="folder", type=Path, default=ROOT / "build/release")
    parser.add_argument("--upload-url", default=UPLOAD_URL)
    parser.add_argument("--simple-url", default=SIMPLE_URL)
    parser.add_argument("--username")
    options = parser.parse_args(arguments)
    index = Index(options.upload_url, options.simple_url)
    if options.username:
        index = Index(options.upload_url, options.simple_url, ("--username", options.username))
    try:
        for name in options.packages:
            package = package_of(ROOT, name)
            uploaded = publish(ROOT, package, options.folder / f"{package.name}-{package.version}", index)
            told = f"uploaded {', '.join(uploaded)}" if uploaded else "the index has all of it"
            print(f"{package.name} {package.version}: {told}", flush=True)
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
