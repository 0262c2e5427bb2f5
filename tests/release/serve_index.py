"""Serves an index of packages on 127.0.0.1, and prints its address: `python3 serve_index.py FOLDER`.

It is a process of its own, because pypiserver leaves things in the import system that others would stumble over.
"""

from __future__ import annotations

import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pypiserver


class Server(ThreadingMixIn, WSGIServer):
    """Answers several calls at once, because uv asks for several packages at once."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def main(folder: str) -> None:
    """Serves until the process is ended. It takes uploads by anybody, and knows no other index."""
    application = pypiserver.app(
        roots=[folder], authenticate=[], password_file=".", disable_fallback=True, hash_algo="sha256"
    )
    with make_server("127.0.0.1", 0, application, server_class=Server, handler_class=Quiet) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
