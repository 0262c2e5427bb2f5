"""Calls Python functions as gowork tasks. The plugin's handlers are in gowork_plugin_python.plugin."""

from gowork_plugin_python._version import __version__
from gowork_plugin_python.allowed import ALLOW_VARIABLE, AllowList, NotAllowed
from gowork_plugin_python.call import PythonCall

__all__ = ["ALLOW_VARIABLE", "AllowList", "NotAllowed", "PythonCall", "__version__"]
