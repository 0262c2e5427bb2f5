"""The plugin: the handler `http`."""

from __future__ import annotations

import asyncio
import email.utils
import http
import os
import time
from urllib.parse import quote

import aiohttp

from gowork.worker import Context, Fail, PluginRegistry, Retry, handler, hookimpl
from gowork_plugin_http.addresses import ALLOW_VARIABLE, Addresses, Dialler
from gowork_plugin_http.bodies import BodyCut
from gowork_plugin_http.exchange import exchange
from gowork_plugin_http.job import HttpFailed, HttpJob, HttpResult, target
from gowork_plugin_http.redirects import Request

#: The statuses after which another attempt may succeed.
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
#: A server that asks for a longer wait than this many seconds is asked again after them.
RETRY_AFTER_SECONDS_MAX = 3600.0
#: The methods that do something twice when they are sent twice. They carry the task's id, so that a server can tell.
_KEYED = frozenset({"POST", "PATCH"})
#: How many characters of a body stand in a failure's message, which has at most 4 KiB.
_SHOWN_CHARS = 1500


class Calls:
    """The handler, for one set of addresses."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    @handler("http")
    async def call(self, ctx: Context, job: HttpJob) -> HttpResult:
        """Calls an HTTP service. HttpJob describes the payload, HttpResult the result.

        Raises:
            HttpFailed: when there is no whole answer, or its status is one of RETRIED.
            Retry: likewise, when the server says when to come again.
            Fail: when the address may not be dialled, the answer can't be read, or another attempt would get the same
                status.
        """
        dialler = Dialler(self._addresses)
        try:
            async with asyncio.timeout(job.timeout):
                result = await exchange(job, request_of(job, ctx.id), dialler)
        except TimeoutError:
            raise HttpFailed(f"there was no whole answer within {job.timeout:g} s (timeout)") from None
        except BodyCut as error:
            raise HttpFailed(f"there was no whole answer: {error}") from None
        except (aiohttp.ClientConnectorError, OSError) as error:
            if dialler.refused:
                raise Fail(_refusal(dialler)) from None
            raise HttpFailed(f"there was no answer: {error}") from error
        except aiohttp.InvalidURL as error:
            raise Fail(f"url: {error}") from None
        except aiohttp.ClientError as error:
            raise HttpFailed(f"there was no whole answer: {type(error).__name__}: {error}") from error
        except ValueError as error:
            raise Fail(str(error)) from None
        if result.status >= 300 and job.check:
            raise _failure(result)
        return result


@hookimpl
def gowork_register_handlers(registry: PluginRegistry) -> None:
    """Adds the handler, with the setting as it is now. What handlers do to the environment later changes nothing.

    Raises:
        ValueError: when the setting can't be read. So the plugin is named with this error, and offers no handler.
    """
    registry.add(Calls(Addresses(os.environ.get(ALLOW_VARIABLE, ""))).call)


def request_of(job: HttpJob, id: str) -> Request:
    """Returns what is sent first for the task of this id."""
    content, kind = job.content
    headers = {"accept-encoding": "gzip, deflate"}
    if content is not None:
        headers["content-type"] = kind
    if job.method in _KEYED:
        # Printable ASCII stays as it is.
        headers["idempotency-key"] = quote(id, safe="".join(map(chr, range(0x21, 0x7F))).replace("%", ""))
    headers |= {name.lower(): value for name, value in job.headers.items()}
    return Request(target(job.url), job.method, headers, content)


def retry_after(value: str | None, now: float) -> float | None:
    """Reads the header Retry-After: seconds, or a date (RFC 9110, 10.2.3).

    Args:
        value: the header; None when there was none.
        now: the time, in seconds since 1970.

    Returns:
        Seconds, at most RETRY_AFTER_SECONDS_MAX; None when it says nothing that can be read.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        # As a float, because a server may send any number of digits.
        return min(float(value[:20]), RETRY_AFTER_SECONDS_MAX)
    try:
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


def _refusal(dialler: Dialler) -> str:
    addresses = ", ".join(sorted(set(dialler.refused))[:5])
    return (
        f"url: its host is at {addresses}, which is not public, so it is not called; "
        f"{ALLOW_VARIABLE} has the other addresses that this worker calls"
    )


def _failure(result: HttpResult) -> Exception:
    """Returns what to raise for an answer whose status is no success."""
    known = {status.value: f" {status.phrase}" for status in http.HTTPStatus}
    text = f"the status is {result.status}{known.get(result.status, '')}"
    if result.body.strip():
        text += f"\nbody: {result.body.strip()[:_SHOWN_CHARS]}"
    if result.status not in RETRIED:
        return Fail(text)
    delay = retry_after(result.headers.get("retry-after"), time.time())
    return HttpFailed(text, result) if delay is None else Retry(text, delay=delay)
