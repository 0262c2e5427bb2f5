"""Checks in a browser, on files, that each page of a folder of versions leads to the other versions.

`nox -s phone` calls it, with a folder that has the site of one version. An older version, which lacks a page, is made
of a copy. It needs chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import build_site
from check_phone import BROWSERS

#: The version that the copy is of, and the page that it lacks.
OLDER = "0.0.1"
LACKED = "docs/tutorial.html"
#: How long the browser may take for a page, in seconds, and how long the page's own scripts may run, in milliseconds.
PAGE_SECONDS_MAX = 120.0
SCRIPT_MS = 5_000
#: Chooses the other version, as a reader does.
_CHOOSING = """<script>
addEventListener("load", () => {
  const selector = document.getElementById("gowork-version");
  selector.selectedIndex = 1 - selector.selectedIndex;
  selector.dispatchEvent(new Event("change"));
});
</script>"""


def shown(browser: str, page: Path) -> str:
    """The page as the browser has it after its scripts have run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={profile}", f"--virtual-time-budget={SCRIPT_MS}", "--dump-dom"]
        done = subprocess.run(
            [browser, *options, page.as_uri()], capture_output=True, text=True, timeout=PAGE_SECONDS_MAX, check=True
        )
    return done.stdout


def older(folder: Path, version: str) -> None:
    """Makes an older version of the one that is there, whose pages are shorter by one."""
    site = Path(shutil.copytree(folder / version, folder / OLDER))
    (site / LACKED).unlink()
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(f'data-version="{version}"', f'data-version="{OLDER}"'), encoding="utf-8")


def faults(folder: Path, version: str, browser: str) -> list[str]:
    """What is wrong with the selectors of the pages, a line each."""
    wrong = []
    # {page: (what the selector has selected, where it leads to for each version)}
    expected = {
        f"{version}/{LACKED}": (version, [f"../../{version}/{LACKED}", f"../../{OLDER}/index.html"]),
        f"{version}/index.html": (version, [f"../{version}/index.html", f"../{OLDER}/index.html"]),
        f"{OLDER}/docs/tls.html": (OLDER, [f"../../{each}/docs/tls.html" for each in (version, OLDER)]),
    }
    for page, (own, targets) in expected.items():
        text = shown(browser, folder / page)
        found = re.findall(r'<option value="([^"]*)"( selected="")?>([^<]*)</option>', text)
        if [target for target, _, _ in found] != targets:
            wrong.append(f"{page}: the selector leads to {[target for target, _, _ in found]}, not to {targets}")
        if [name for _, is_selected, name in found if is_selected] != [own]:
            wrong.append(f"{page}: the selector does not show {own}: {found}")
    choosing = folder / version / "docs/tls.html"
    choosing.write_text(choosing.read_text(encoding="utf-8") + _CHOOSING, encoding="utf-8")
    if f'data-version="{OLDER}"' not in shown(browser, choosing):
        wrong.append(f"{version}/docs/tls.html: another version that is chosen is not shown")
    return wrong


def main() -> None:
    """Checks copies of the versions, and ends with 1 when a page does not lead to another version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of versions, with one version")
    source = parser.parse_args().folder.resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"not on PATH: {' or '.join(BROWSERS)}")
    (index,) = source.glob("*/index.html")
    version = index.parent.name
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "versions")
        shutil.copytree(source, folder)
        older(folder, version)
        build_site.list_versions(folder)
        wrong = faults(folder, version, browser)
    print("\n".join(wrong) or "the selector leads from each version to the other")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
