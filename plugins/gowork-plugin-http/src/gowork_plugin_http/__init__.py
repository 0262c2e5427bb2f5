"""Calls HTTP services as gowork tasks. The plugin's handler is in gowork_plugin_http.plugin."""

from gowork_plugin_http._version import __version__
from gowork_plugin_http.addresses import ALLOW_VARIABLE
from gowork_plugin_http.job import HttpFailed, HttpJob, HttpResult

__all__ = ["ALLOW_VARIABLE", "HttpFailed", "HttpJob", "HttpResult", "__version__"]
