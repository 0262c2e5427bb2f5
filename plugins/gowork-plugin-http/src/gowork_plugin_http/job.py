"""The payload of a task that calls an HTTP service, and its result."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from yarl import URL

#: How many bytes of the answer's body are kept if the task names no number, and how many it may name.
BODY_BYTES_DEFAULT = 64 << 10
BODY_BYTES_MAX = 400 << 10
URL_CHARS_MAX = 8192
HEADERS_MAX = 100
HEADERS_BYTES_MAX = 32 << 10
REDIRECTS_MAX = 20
TIMEOUT_SECONDS_MAX = 3600.0

#: RFC 9110, 5.6.2: what a header's name may be.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: RFC 9110, 5.5: nothing that ends a line, and nothing else that cannot be seen.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: Headers that say how the message itself travels. The client writes them.
_OWN = frozenset({
    "connection", "content-length", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip


class HttpJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload: JSON with these fields. Only `url` is needed."""

    #: Where to: http or https, without name and password.
    url: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: dict[str, str] = {}
    #: What is sent: a text, or bytes, or a value that becomes JSON. At most one of them.
    body: str | None = None
    body_base64: bytes | None = None
    json: Any = msgspec.UNSET
    #: Seconds for all of it: looking up, connecting, redirects, and the whole answer.
    timeout: float = 30.0
    #: How many redirects are followed; 0 for none.
    redirects_max: int = 5
    #: How many bytes of the answer's body are kept, after decompression. The rest is not read.
    body_bytes_max: int = BODY_BYTES_DEFAULT
    #: Whether a status from 300 on fails the attempt.
    check: bool = True

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: when a field is out of its bounds.
        """
        target(self.url)
        _check_headers(self.headers)
        if (self.body is not None) + (self.body_base64 is not None) + self.has_json > 1:
            raise ValueError("body, body_base64, json: give one of them at most")
        if not 0 < self.timeout <= TIMEOUT_SECONDS_MAX:
            raise ValueError(
                f"timeout: it is {self.timeout}; give seconds, more than 0 and at most {TIMEOUT_SECONDS_MAX:g}"
            )
        if not 0 <= self.redirects_max <= REDIRECTS_MAX:
            raise ValueError(f"redirects_max: it is {self.redirects_max}; give 0 to {REDIRECTS_MAX}")
        if not 0 <= self.body_bytes_max <= BODY_BYTES_MAX:
            raise ValueError(f"body_bytes_max: it is {self.body_bytes_max}; give 0 to {BODY_BYTES_MAX}")

    @property
    def has_json(self) -> bool:
        """Whether `json` is given; null counts."""
        return self.json is not msgspec.UNSET

    @property
    def content(self) -> tuple[bytes | None, str]:
        """What is sent, and its type: (bytes, "application/json")."""
        if self.has_json:
            return msgspec.json.encode(self.json), "application/json"
        if self.body is not None:
            return self.body.encode(), "text/plain; charset=utf-8"
        return self.body_base64, "application/octet-stream"


class HttpResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result."""

    status: int
    #: Where the answer came from, after all redirects.
    url: str
    #: By name, in small letters. The values of a header that came several times are joined by a comma and a space.
    headers: dict[str, str]
    #: The body as text. Empty when it is no text of a known character set.
    body: str
    #: The body in base64. Empty when it is text.
    body_base64: str
    #: Whether a part of the body was left out.
    truncated: bool
    #: How many redirects were followed.
    redirects: int
    #: How long all of it took.
    seconds: float


class HttpFailed(Exception):
    """The service did not answer as it should. `result` is its answer, or None where there was no whole one."""

    def __init__(self, reason: str, result: HttpResult | None = None) -> None:
        super().__init__(reason)
        self.result = result


def target(text: str) -> URL:
    """Reads the URL of a task or of a redirect.

    Raises:
        ValueError: when it can't be called. The text never has the URL's password.
    """
    if len(text) > URL_CHARS_MAX:
        raise ValueError(f"url: it has {len(text)} characters; at most {URL_CHARS_MAX} are read")
    if not text.isprintable() or " " in text:
        raise ValueError("url: it has a space, an end of line or another character that is not printable; encode it")
    try:
        url = URL(text)
        port = url.port
    except ValueError as error:
        raise ValueError(
            f"url: it can't be read: {str(error) if '@' not in text else 'see its port and host'}"
        ) from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"url: only http and https are called, not {url.scheme!r:.20}")
    if url.user is not None or url.password is not None:
        raise ValueError("url: it has a name or a password; send them in the header Authorization")
    if not url.host or not port:
        raise ValueError("url: it has no host, or port 0")
    return url.with_fragment(None)


def _check_headers(headers: dict[str, str]) -> None:
    if len(headers) > HEADERS_MAX:
        raise ValueError(f"headers: there are {len(headers)}; at most {HEADERS_MAX} are sent")
    size = 0
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"headers: {name!r:.100} is no name of a header")
        if name.lower() in _OWN:
            raise ValueError(f"headers: {name} is written by the client; leave it out")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"headers: the value of {name} has an end of line or a character beyond ISO 8859-1")
        size += len(name) + len(value)
    if size > HEADERS_BYTES_MAX:
        raise ValueError(f"headers: they have {size} bytes; at most {HEADERS_BYTES_MAX} are sent")
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("headers: a name is there twice, in large and small letters")
