"""Says what is sent where after a redirect: nothing that may be a secret goes to another origin."""

from __future__ import annotations

from dataclasses import dataclass, replace

from yarl import URL

from gowork_plugin_http.job import target

_STATUSES = frozenset({301, 302, 303, 307, 308})
#: The headers that another origin gets too. Any other may be a credential.
_HARMLESS = frozenset({"accept", "accept-encoding", "accept-language", "content-type", "user-agent"})

#: The headers that make no sense once the request has become one without a body.
_OF_A_BODY = frozenset({"content-type", "idempotency-key"})


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent."""

    url: URL
    method: str
    #: {name in small letters: value}
    headers: dict[str, str]
    content: bytes | None


def next_request(request: Request, status: int, location: str | None) -> Request | None:
    """Returns what is sent after an answer; None when the answer is no redirect.

    Raises:
        ValueError: when the redirect can't be followed.
    """
    if status not in _STATUSES or not location:
        return None
    try:
        url = target(str(request.url.join(URL(location))))
    except ValueError as error:
        raise ValueError(f"the redirect can't be followed: {error}") from None
    if (status == 303 and request.method != "HEAD") or (status in (301, 302) and request.method == "POST"):
        # https://fetch.spec.whatwg.org/#http-redirect-fetch
        headers = {name: value for name, value in request.headers.items() if name not in _OF_A_BODY}
        request = replace(request, method="GET", content=None, headers=headers)
    if _is_same(request.url, url):
        return replace(request, url=url)
    if request.content is not None:
        raise ValueError(f"the redirect leads to another origin, {url.origin()}, which the body was not meant for")
    headers = {name: value for name, value in request.headers.items() if name in _HARMLESS}
    return replace(request, url=url, headers=headers)


def _is_same(one: URL, other: URL) -> bool:
    """Whether two URLs have the same origin, or the second is the first one's over TLS at the usual ports."""
    if one.origin() == other.origin():
        return True
    is_upgrade = (one.scheme, one.port, other.scheme, other.port) == ("http", 80, "https", 443)
    return is_upgrade and one.host == other.host
