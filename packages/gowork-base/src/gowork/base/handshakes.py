"""Finds out why a connection does not begin, where TLS may be the reason.

gRPC says only that a handshake failed, or that the socket was closed. This connects once more by itself, with a time
limit, and looks at what the other side shows and says.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from gowork.base.certificates import names_of, shown_names, time_fault
from gowork.base.channels import format_address, parse_address

if TYPE_CHECKING:
    from cryptography import x509

    from gowork.base.tls import Tls

#: How long one attempt may take, in seconds.
SECONDS = 1.0
#: Of whoever speaks HTTP/2 first: the preface, and a frame of settings without a setting.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
#: The type of a frame of settings, after three bytes of its length.
_SETTINGS = 4
#: OpenSSL's codes of what is wrong with a chain: X509_V_ERR_… in openssl/x509_vfy.h.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST, _WRONG_ADDRESS = 9, 10, 62, 64
#: {a word of the alert that the other side sends: what it means}. RFC 8446, section 6.2.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a certificate of whoever calls; give tls-cert and tls-key",
    "CERTIFICATE_EXPIRED": "it says that the certificate that is shown to it has expired",
    "CERTIFICATE_REVOKED": "it says that the certificate that is shown to it is revoked",
    "UNKNOWN_CA": "it does not know the authority of the certificate that is shown to it",
    "BAD_CERTIFICATE": "it does not take the certificate that is shown to it",
    "CERTIFICATE_UNKNOWN": "it does not take the certificate that is shown to it",
    "UNSUPPORTED_CERTIFICATE": "it does not take the certificate that is shown to it: it is not for a client",
    "ACCESS_DENIED": "it denies access to the certificate that is shown to it",
    "HANDSHAKE_FAILURE": "it refuses the handshake; it may want a certificate of whoever calls",
    "PROTOCOL_VERSION": "it speaks no version of TLS that is known here",
}


def why_no_handshake(address: str, tls: Tls | None, seconds: float = SECONDS) -> str:
    """Says why no connection to an address begins. It blocks, for three attempts at most.

    Args:
        address: HOST:PORT.
        tls: the certificates of who calls; None: it calls in plain text.
        seconds: how long one attempt may take.

    Returns:
        A few words, as in "its certificate expired at …"; empty where TLS is not the reason, or nobody answers.
    """
    host, port = parse_address(address)
    place = (host, port)
    if tls is None or not tls.calls:
        if _speaks_plain(place, seconds) or not _speaks_tls(place, seconds):
            return ""
        return "it takes TLS alone, and was called in plain text; give tls-ca, the authority of its certificate"
    name = tls.files.name or host
    try:
        with _wrapped(place, _context(tls), name, seconds) as connection:
            # A server that does not take the client's certificate says so, or ends the connection, when the handshake
            # is over. gRPC's says nothing.
            if connection.recv(1):
                return ""
            return _why_ended(tls)
    except ssl.SSLCertVerificationError as error:
        return _why_not_trusted(place, tls, name, error, seconds)
    except ssl.SSLError as error:
        reason = error.reason or str(error)
        for word, meaning in _ALERTS.items():
            if reason.endswith(f"ALERT_{word}"):
                return meaning
        if _speaks_plain(place, seconds):
            return "it takes plain text alone, and was called by TLS; leave tls-ca out, or have it serve by TLS"
        return f"the TLS handshake failed ({reason})"
    except ConnectionResetError:
        return _why_ended(tls)
    except OSError:
        return ""


def shown_by(address: str, seconds: float = SECONDS) -> x509.Certificate | None:
    """Returns the certificate that an address shows, whether it can be trusted or not; None: it shows none."""
    try:
        with _wrapped(parse_address(address), _trusting_context(), "", seconds) as connection:
            shown = connection.getpeercert(binary_form=True)
    except OSError:
        return None
    from cryptography import x509

    return x509.load_der_x509_certificate(shown) if shown else None


def _why_ended(tls: Tls) -> str:
    """Says why a server may have ended the connection after the handshake."""
    from cryptography import x509

    pair = tls.held.pair
    if pair is None:
        return "it ended the connection when no certificate was shown to it; give tls-cert and tls-key"
    own = x509.load_pem_x509_certificate(pair.chain)
    if fault := time_fault(own):
        return f"it ended the connection: the certificate {tls.files.cert} {fault}"
    issuer = own.issuer.rfc4514_string()
    return f"it ended the connection when it was shown {tls.files.cert}; it may not know its authority: {issuer}"


def _why_not_trusted(
    place: tuple[str, int], tls: Tls, name: str, error: ssl.SSLCertVerificationError, seconds: float
) -> str:
    certificate = shown_by(format_address(*place), seconds)
    if certificate is None:
        return f"its certificate can't be trusted ({error.verify_message})"
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        # One of its issuers' may be the expired one.
        return f"its certificate {time_fault(certificate) or error.verify_message}"
    if error.verify_code in (_WRONG_HOST, _WRONG_ADDRESS):
        names = shown_names(names_of(certificate))
        return f"its certificate is not for {name}: it is for {names}; call it by one of these, or give tls-name"
    issuer = certificate.issuer.rfc4514_string()
    trusted = "the public authorities" if tls.files.is_public else str(tls.files.ca or tls.files.client_ca)
    return f"its certificate is from an authority that is not in {trusted}: {issuer}"


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca = tls.held.ca
    if ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=ca.decode())
    if tls.files.cert:
        context.load_cert_chain(tls.files.cert, tls.files.key)
    context.set_alpn_protocols(["h2"])
    return context


def _trusting_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def _wrapped(place: tuple[str, int], context: ssl.SSLContext, name: str, seconds: float) -> ssl.SSLSocket:
    """Connects by TLS.

    Raises:
        OSError: of which ssl.SSLError is one.
    """
    connection = socket.create_connection(place, seconds)
    try:
        return context.wrap_socket(connection, server_hostname=name or None)
    except BaseException:
        connection.close()
        raise


def _speaks_plain(place: tuple[str, int], seconds: float) -> bool:
    """Whether HTTP/2 is spoken there without TLS."""
    try:
        with socket.create_connection(place, seconds) as connection:
            connection.sendall(_HELLO)
            answer = connection.recv(4)
    except OSError:
        return False
    return len(answer) == 4 and answer[3] == _SETTINGS


def _speaks_tls(place: tuple[str, int], seconds: float) -> bool:
    try:
        with _wrapped(place, _trusting_context(), "", seconds):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
