"""The leader of a gowork cluster."""

from gowork.base.certificates import CertificateError
from gowork.base.tls_files import TlsFiles
from gowork.leader._access.access import Access
from gowork.leader._access.access_file import AccessError
from gowork.leader._access.authenticators import (
    Authenticator,
    AuthenticatorError,
    Caller,
    Credentials,
    load_authenticator,
)
from gowork.leader._app.leader import Leader
from gowork.leader._app.node import Addresses
from gowork.leader._app.ports import ListenError
from gowork.leader._core.state import Settings
from gowork.leader._version import __version__
from gowork.leader.store.registry import open_store

__all__ = [
    "Access",
    "AccessError",
    "Addresses",
    "Authenticator",
    "AuthenticatorError",
    "Caller",
    "CertificateError",
    "Credentials",
    "Leader",
    "ListenError",
    "Settings",
    "TlsFiles",
    "__version__",
    "load_authenticator",
    "open_store",
]
