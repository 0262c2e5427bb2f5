"""The leader of a gowork cluster."""

from gowork.leader._app.leader import Leader
from gowork.leader._app.node import Addresses
from gowork.leader._app.ports import ListenError
from gowork.leader._core.state import Settings
from gowork.leader._version import __version__
from gowork.leader.store.registry import open_store

__all__ = ["Addresses", "Leader", "ListenError", "Settings", "__version__", "open_store"]
