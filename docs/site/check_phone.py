"""Checks that no page of the built site is wider than a phone: `nox -s phone` calls it, with the site's folder.

A browser opens each page in a frame of 390 pixels, measures it, and tells the server here. It needs chromium.
"""

from __future__ import annotations

import argparse
import functools
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: The width of a phone's window, in CSS pixels.
WIDTH_PX = 390
#: How long the browser may take for all pages, in seconds.
BROWSER_SECONDS_MAX = 300.0
#: Names under which the browser may be installed.
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: A page that is too wide, by which the measuring itself is checked.
_WIDE = "measure-wide"
#: Opens the pages one after the other, and posts [[page, its width in pixels]].
_MEASURING = """<!doctype html><iframe id="frame" style="width: WIDTHpx; height: 800px; border: 0"></iframe><script>
const frame = document.getElementById("frame"), widths = [];
async function measure() {
  for (const page of PAGES) {
    await new Promise((resolve) => { frame.onload = resolve; frame.src = "/" + page; });
    widths.push([page, frame.contentDocument.documentElement.scrollWidth]);
  }
  await fetch("/measured", { method: "POST", body: JSON.stringify(widths) });
}
measure();
</script>"""


class _Server(ThreadingHTTPServer):
    """Serves the site, and the page that measures it."""

    def __init__(self, site: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
        pages = [_WIDE, *sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))]
        self.measuring = _MEASURING.replace("WIDTH", str(WIDTH_PX)).replace("PAGES", json.dumps(pages)).encode()
        #: What the browser has measured, once.
        self.measured: queue.Queue[list[tuple[str, int]]] = queue.Queue(1)


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        wide = f'<!doctype html><body style="margin: 0"><p style="width: {WIDTH_PX + 1}px">wide</p>'.encode()
        body = {"/measure": self.server.measuring, f"/{_WIDE}": wide}.get(self.path)
        if body is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.measured.put([(page, width) for page, width in json.loads(body)])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  the base class has this name
        """Says nothing of each request."""


def widths(site: Path, browser: str) -> list[tuple[str, int]]:
    """Measures all pages of a site: (page, its width in pixels).

    Raises:
        queue.Empty: the browser has not measured them in BROWSER_SECONDS_MAX.
    """
    server = _Server(site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ]
        address = f"http://127.0.0.1:{server.server_port}/measure"
        # It would end by itself after the page has loaded if it had no port to be told what to do.
        command = [browser, *options, "--remote-debugging-port=0", "--window-size=800,900", address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return server.measured.get(timeout=BROWSER_SECONDS_MAX)
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
            server.server_close()


def main() -> None:
    """Measures all pages, and ends with 1 when one is too wide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the built site")
    site = parser.parse_args().folder.resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"not on PATH: {' or '.join(BROWSERS)}")
    (planted, *measured) = widths(site, browser)
    assert planted == (_WIDE, WIDTH_PX + 1), f"the browser measures {planted}"
    wide = [(page, width) for page, width in measured if width > WIDTH_PX]
    for page, width in wide:
        print(f"{page} is {width} px wide, in a window of {WIDTH_PX} px")
    print(f"{len(measured)} pages, {len(wide)} too wide")
    raise SystemExit(bool(wide) or not measured)


if __name__ == "__main__":
    main()
