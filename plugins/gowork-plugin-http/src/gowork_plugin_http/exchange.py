"""Sends one request, follows redirects, and reads the answer."""

from __future__ import annotations

import time

import aiohttp
import msgspec

from gowork_plugin_http.addresses import Dialler
from gowork_plugin_http.bodies import Body
from gowork_plugin_http.job import HttpJob, HttpResult
from gowork_plugin_http.lookups import Lookups
from gowork_plugin_http.redirects import Request, next_request

#: How many bytes the headers of an answer may have, all together. The client itself refuses single ones that are longer
#: than 8190.
ANSWER_HEADERS_BYTES_MAX = 64 << 10
#: How many bytes a result may take as JSON, where a control character takes six. The limit of all results is 1 MiB.
_RESULT_BYTES_MAX = 1_000_000


async def exchange(job: HttpJob, request: Request, dialler: Dialler) -> HttpResult:
    """Returns the answer.

    Raises:
        ValueError: when a redirect can't be followed, or the answer can't be read.
        aiohttp.ClientError: when there is no whole answer.
        OSError: likewise.
        BodyCut: likewise.
    """
    began = time.monotonic()
    # A session of its own, so that no task sees connections or cookies of another one. It takes no proxy and no
    # password from the environment.
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            resolver=Lookups(), socket_factory=dialler, force_close=True, use_dns_cache=False
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        auto_decompress=False,
        trust_env=False,
    ) as session:
        redirects = 0
        while True:
            async with session.request(
                request.method, request.url, headers=request.headers, data=request.content, allow_redirects=False
            ) as answer:
                following = None
                if job.redirects_max > 0:
                    following = next_request(request, answer.status, answer.headers.get("Location"))
                if following is None:
                    return _fitting(await _result(job, request, answer, redirects, began))
            redirects += 1
            if redirects > job.redirects_max:
                raise ValueError(f"there are more than {job.redirects_max} redirects (redirects_max)")
            request = following


async def _result(
    job: HttpJob, request: Request, answer: aiohttp.ClientResponse, redirects: int, began: float
) -> HttpResult:
    headers: dict[str, str] = {}
    for name, value in answer.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > ANSWER_HEADERS_BYTES_MAX:
        raise ValueError(f"the answer's headers have {size} bytes; at most {ANSWER_HEADERS_BYTES_MAX} are read")
    body = Body(headers.get("content-encoding", ""), job.body_bytes_max)
    await body.read(answer.content)
    if body.truncated:
        # What was not read must not be waited for.
        answer.close()
    text = body.text(answer.charset)
    return HttpResult(
        status=answer.status,
        url=str(request.url),
        # Bytes that are not UTF-8 come as lone surrogates, which JSON does not have.
        headers={name: value.encode(errors="replace").decode() for name, value in headers.items()},
        body=text or "",
        body_base64=body.base64() if text is None else "",
        truncated=body.truncated,
        redirects=redirects,
        seconds=round(time.monotonic() - began, 6),
    )


def _fitting(result: HttpResult) -> HttpResult:
    """Cuts the body until the result is short enough as JSON."""
    while len(msgspec.json.encode(result)) > _RESULT_BYTES_MAX:
        result = msgspec.structs.replace(result, body=result.body[: len(result.body) // 2], truncated=True)
    return result
