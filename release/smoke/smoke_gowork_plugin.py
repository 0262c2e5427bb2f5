"""A worker finds the plugin that is named, such as gowork-plugin-shell, without an import."""

import importlib.util
import sys
from importlib.metadata import entry_points

from gowork.worker import __version__

name = sys.argv[1]
(entry,) = [
    entry for entry in entry_points(group="gowork.plugins") if entry.dist is not None and entry.dist.name == name
]
assert entry.name == name.removeprefix("gowork-plugin-")
assert entry.load().__name__ == entry.value
assert __version__
for other in ("gowork.leader", "gowork.client", "gowork.cli"):
    assert importlib.util.find_spec(other) is None, other
