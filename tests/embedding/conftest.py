"""The examples that need a framework are run by `nox -s embedding` alone, which has these frameworks."""

from __future__ import annotations

from importlib.util import find_spec

FRAMEWORKS = ("django", "fastapi", "flask", "gunicorn", "ipykernel", "nbclient", "uvicorn")

#: The rest of the tests needs none of them, and is run without.
collect_ignore_glob = [] if all(find_spec(name) for name in FRAMEWORKS) else ["test_*.py"]
