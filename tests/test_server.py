"""The HTTP API as a server: who gets in, what is refused before a handler sees it, and in which form."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import orjson
import pytest
import pytest_asyncio
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from api import JSON, SILENCE, Api, read_raw, request, serving
from engines import LOOPBACK
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from hookengine.config import Config, Server
from hookengine.engine import Engine
from hookengine.errors import Malformed, StartError, StorageFailed
from hookengine.server import listener, problems, routes, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from api import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = Server(max_body=2048, max_batch_body=8192)
ROUTES = [(route.method, re.sub(r"\{[a-z]+\}", "x", route.path)) for route in routes.ROUTES]
PUBLIC = {"/livez", "/readyz", "/openapi.json"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: none of them leaves anything in it."""
    async with serving(tmp_path_factory.mktemp("server"), server=SMALL) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_fault(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client sends is logged as a fault of ours."""
    yield
    assert [] == [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (route.method, re.sub(r"\{[a-z]+\}", "x", route.path))
        for route in routes.ROUTES
        if not route.keyed and (route.method == "POST" or (route.path.endswith("/secret") and route.method == "PUT"))
    ],
)
async def test_key_where_none_is_kept(api: Api, method: str, path: str) -> None:
    """What would be done twice, and keeps no Idempotency-Key, refuses one: it would promise what is not kept."""
    assert_problem(await api(method, path, headers={"Idempotency-Key": "x"}), 400, "idempotency_key_not_supported")


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """*answer* is a problem of that status and code, in the one form that they all have, and is safe to show."""
    assert (status, problems.MEDIA_TYPE) == (answer.status, answer.headers["Content-Type"])
    told = answer.json
    assert (
        {"type", "title", "status", "code", "detail"} <= told.keys() <= {"type", "title", "status", "code", "detail", "errors"}
    )
    assert (code, status, f"urn:hookengine:problem:{code}") == (told["code"], told["status"], told["type"])
    assert problems.SAFE.items() <= answer.headers.items()
    assert b"Traceback" not in answer.body


def told(response: web.StreamResponse) -> tuple[int, str]:
    """The status and the code of a problem that was not sent."""
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    return response.status, orjson.loads(response.body)["code"]


# Who gets in.


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_probes_need_no_token(api: Api, path: str) -> None:
    """A load balancer may ask whether the process lives and takes events."""
    answer = await api("GET", path, token="wrong")

    assert (200, {"status": "ok"}) == (answer.status, answer.json)
    assert problems.SAFE.items() <= answer.headers.items()
    assert ("hookengine", "nosniff", "no-store") == tuple(
        answer.headers[name] for name in ("Server", "X-Content-Type-Options", "Cache-Control")
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [pytest.param(*each, id=" ".join(each)) for each in ROUTES if each[1] not in PUBLIC]
    + [("GET", "/"), ("GET", "/v1"), ("GET", "/v1/nothing"), ("PUT", "/v1/events"), ("GET", "/livez/"), ("GET", "//livez")],
)
async def test_everything_else_needs_one(api: Api, method: str, path: str) -> None:
    """Without a token nobody learns even which paths there are."""
    answer = await api(method, path, token="wrong")

    assert_problem(answer, 401, "unauthorized")
    assert "Bearer" == answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="I54-none"),
        pytest.param("", id="I54-empty"),
        pytest.param("Bearer", id="I54-no token"),
        pytest.param("Bearer ", id="I54-empty token"),
        pytest.param("Basic {token}", id="I54-wrong scheme"),
        pytest.param("{token}", id="I54-no scheme"),
        pytest.param("Bearer {token}x", id="I54-longer"),
        pytest.param("Bearer {token} {token}", id="I54-twice"),
        pytest.param("Bearer " + "a" * 7000, id="I54-7 KB"),
        pytest.param("Bearer \xff\xfe", id="I54-no ASCII"),
        pytest.param("Bearer hke_" + "0" * 64, id="I54-unknown"),
    ],
)
async def test_wrong_credentials(api: Api, authorization: str | None) -> None:
    """Whatever is wrong with a token, the answer is the same."""
    lines = "" if authorization is None else f"Authorization: {authorization}\r\n"
    head = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode("latin-1")

    answer = read_raw(await api.send(head))

    assert_problem(answer, 401, "unauthorized")
    assert "send a valid token as 'Authorization: Bearer <token>'" == answer.json["detail"]


@pytest.mark.row("I56")
async def test_token_in_the_query(api: Api) -> None:
    """A token in the URL opens nothing."""
    answer = await api("GET", f"/v1/events?access_token={api.token}&token={api.token}", token="wrong")

    assert_problem(answer, 401, "unauthorized")
    assert api.token.encode() not in answer.body


async def test_scheme_in_any_case(api: Api) -> None:
    """The name of a scheme is not case-sensitive (RFC 9110, 11.1)."""
    answer = await api("GET", "/v1/events", headers={"Authorization": f"bEARER  {api.token}"})

    assert 200 == answer.status


# Paths and methods.


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/event",
        "/v1/events/",
        "/v1/events/x/y",
        "/v1/subscriptions/x/y",
        "/V1/events",
        "/%76%31/x",
        "//v1/events",
    ],
)
async def test_unknown_path(api: Api, path: str) -> None:
    """What is not there is a problem too."""
    assert_problem(await api("GET", path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        pytest.param("PUT", "/v1/events", "GET,HEAD,POST", id="I59-PUT"),
        pytest.param("TRACE", "/v1/events", "GET,HEAD,POST", id="I59-TRACE"),
        pytest.param("OPTIONS", "/v1/subscriptions/x", "DELETE,GET,HEAD,PATCH", id="I59-OPTIONS"),
        pytest.param("GET", "/v1/deliveries/x/retry", "POST", id="I59-GET"),
        pytest.param("POST", "/livez", "GET,HEAD", id="I59-public"),
    ],
)
async def test_wrong_method(api: Api, method: str, path: str, allowed: str) -> None:
    """A method that a path does not take is told with those that it does."""
    answer = await api(method, path)

    assert_problem(answer, 405, "method_not_allowed")
    assert set(allowed.split(",")) == set(answer.headers["Allow"].split(","))


@pytest.mark.parametrize("target", [b"127.0.0.1:80", b"/v1/events", b"*"])
@pytest.mark.row("I59")
async def test_connect(api: Api, target: bytes) -> None:
    """No path lets a client through to somewhere else."""
    answer = await api.send(b"CONNECT %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)

    assert_problem(read_raw(answer), 405, "method_not_allowed")


@pytest.mark.parametrize(
    "id_",
    [
        "..%2f..%2fetc",
        "%2e%2e%2f",
        "a%00b",
        "a%0d%0aX:1",
        "%ff",
        "%ed%a0%80",
        "%F0%9F%92%A9",
        "a" * 8000,
        "'%20OR%201=1--",
        "%25",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("GET", f"/v1/{kind}/{{}}") for kind in ("events", "subscriptions", "deliveries", "event-types", "tenants")],
        *[("DELETE", f"/v1/{kind}/{{}}") for kind in ("event-types", "tenants", "tokens")],
        ("GET", "/v1/tenants/{}/secret"),
        ("DELETE", "/v1/tenants/{}/secret"),
        ("PATCH", "/v1/subscriptions/{}"),
        ("DELETE", "/v1/subscriptions/{}"),
        ("POST", "/v1/deliveries/{}/retry"),
    ],
)
@pytest.mark.row("I38")
async def test_ids_that_are_none(api: Api, method: str, path: str, id_: str) -> None:
    """Whatever stands where an id should be, it is just not found."""
    answer = await api(method, path.format(id_), {} if method == "PATCH" else None)

    assert 404 == answer.status
    assert answer.json["code"].endswith("not_found")
    assert id_.encode() not in answer.body


# Bodies.


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        pytest.param("POST", "/v1/events", "text/plain", id="I30-text"),
        pytest.param("POST", "/v1/events", "application/x-www-form-urlencoded", id="I30-form"),
        pytest.param("POST", "/v1/events", "multipart/form-data; boundary=x", id="I30-multipart"),
        pytest.param("POST", "/v1/events", None, id="I30-none"),
        pytest.param("POST", "/v1/events", "application/jsonx", id="longer"),
        pytest.param("POST", "/v1/events", "application/x-ndjson", id="a single event as lines"),
        pytest.param("POST", "/v1/events", "application/merge-patch+json", id="an event as a patch"),
        pytest.param("POST", "/v1/events", ";;;", id="nonsense"),
        pytest.param("POST", "/v1/events", "application/json; charset=utf-16", id="I31-utf-16"),
        pytest.param("POST", "/v1/events", "application/json; charset=latin-1", id="I31-latin-1"),
        pytest.param("POST", "/v1/events/batch", "text/plain", id="batch"),
        pytest.param("POST", "/v1/subscriptions", "text/plain", id="subscription"),
        pytest.param("PATCH", "/v1/subscriptions/x", "text/plain", id="patch"),
        pytest.param("POST", "/v1/subscriptions/x/enable", "text/plain", id="action"),
    ],
)
async def test_media_types(api: Api, method: str, path: str, content_type: str | None) -> None:
    """What is not sent as what it must be is refused: a browser's form could be."""
    assert_problem(await api(method, path, b"{}", content_type=content_type), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["APPLICATION/JSON", "application/json;charset=UTF-8", 'application/json; charset="utf-8"']
)
async def test_media_type_is_read_as_one(api: Api, content_type: str) -> None:
    """Case and a charset of UTF-8 make no difference."""
    assert_problem(await api("POST", "/v1/events", b"{}", content_type=content_type), 422, "invalid")


@pytest.mark.parametrize(
    "coding",
    [
        pytest.param("gzip", id="I26"),
        pytest.param("gzip, identity", id="I27"),
        pytest.param("zz-top", id="I29"),
        "deflate",
        "br",
    ],
)
async def test_content_codings(api: Api, coding: str) -> None:
    """A coded body is refused before anything is decoded."""
    answer = read_raw(await api.send(request("POST", "/v1/events", b"\x1f\x8b" + bytes(40), Content_Encoding=coding)))

    assert_problem(answer, 415, "unsupported_media_type")
    assert "identity" == answer.headers["Accept-Encoding"]


async def test_identity_is_no_coding(api: Api) -> None:
    """A body may be said to be as it is."""
    answer = read_raw(await api.send(request("POST", "/v1/events", b"{}", Content_Encoding="Identity")))

    assert_problem(answer, 422, "invalid")


def sized(length: int) -> bytes:
    """An event of so many bytes that is not valid."""
    return b'{"data":"' + b"x" * (length - 11) + b'"}'


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        pytest.param("/v1/events", 2048, id="event"),
        pytest.param("/v1/events/batch", 8192, id="batch"),
        pytest.param("/v1/subscriptions", 2048, id="subscription"),
        pytest.param("/v1/subscriptions/x/rotate-secret", 2048, id="action"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["I21", "I24"])
async def test_size_of_a_body(api: Api, path: str, limit: int, *, chunked: bool) -> None:
    """A body of the limit is read, one byte more is too much, with its length announced or not."""

    async def status(length: int) -> int:
        body = sized(length)
        if not chunked:
            return (await api("POST", path, body)).status
        # In two chunks, the second of which passes the limit.
        parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:1000], body[1000:])) + b"0\r\n\r\n"
        head = request("POST", path, Content_Type=JSON, Transfer_Encoding="chunked")
        return read_raw(await api.send(head + parts)).status

    assert 413 not in {await status(limit - 1), await status(limit)}
    assert 413 == await status(limit + 1)


@pytest.mark.parametrize(
    "announced", [pytest.param("8388608", id="I22"), pytest.param("10000000000", id="I23"), pytest.param("9" * 18, id="10^18")]
)
async def test_too_large_by_its_own_words(api: Api, announced: str) -> None:
    """What announces too much is refused before any of it is read, and the connection ends."""

    async def ask(path: str) -> None:
        reader, writer = await api.dial()
        try:
            head = request("POST", path, Content_Type=JSON, Content_Length=announced, Connection="keep-alive")
            writer.write(head.replace(b"{token}", api.token.encode()) + b"{}")
            async with asyncio.timeout(PATIENCE):  # the rest of the upload is waited for after the answer, not before it
                answer = await reader.readuntil(b"}")
            assert_problem(read_raw(answer), 413, "payload_too_large")
            assert "close" == read_raw(answer).headers["Connection"]
            async with asyncio.timeout(PATIENCE):
                assert b"" == await reader.read()
        finally:
            writer.close()

    await asyncio.gather(*(ask(path) for path in ("/v1/events", "/v1/events/batch", "/v1/subscriptions/x/enable")))


@pytest.mark.parametrize(
    ("framing", "code"),
    [
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "bad_request", id="no chunk size"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx\r\n", "bad_request", id="longer chunk"),
        pytest.param(b"Transfer-Encoding: gzip\r\n\r\n", "bad_request", id="unknown transfer coding"),
        pytest.param(
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "bad_request", id="both lengths"
        ),
        pytest.param(b"Content-Length: -2\r\n\r\n", "bad_request", id="negative length"),
        pytest.param(b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "bad_request", id="two lengths"),
        pytest.param(b"Content-Length: two\r\n\r\n{}", "bad_request", id="no number"),
    ],
)
async def test_wrong_framing(api: Api, framing: bytes, code: str) -> None:
    """A body whose length cannot be told is a problem, never the start of a second request."""
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"

    answer = await api.send(head + framing)

    assert_problem(read_raw(answer), 400, code)
    assert 1 == answer.count(b"HTTP/1.")


async def test_client_that_leaves_in_the_middle(api: Api) -> None:
    """A client that goes away while it sends leaves nothing behind, not even in the log."""
    before = api.counts()
    reader, writer = await api.dial()
    head = request("POST", "/v1/events", Content_Type=JSON, Content_Length="100", Expect="100-continue")
    writer.write(head.replace(b"{token}", api.token.encode()))
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"100 Continue\r\n\r\n")
    writer.write(b'{"type":"a","data":')
    writer.transport.abort()

    assert 200 == (await api("GET", "/v1/events")).status
    assert before == api.counts()


async def upload(end: Exception | None = None) -> web.Request:
    """A request whose body has begun and goes on no further, or ends so."""
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.transport = asyncio.Transport()
    body = StreamReader(protocol, 65536)
    body.feed_data(b"{")
    if end is not None:
        body.set_exception(end)
    return make_mocked_request("POST", "/v1/events", {"Content-Type": JSON}, payload=body)


@pytest.mark.row("I64")
async def test_body_that_does_not_come() -> None:
    """A client that is slower than patience has it is told so."""
    with pytest.raises(web.HTTPRequestTimeout) as refused:
        await wire.read_body(await upload(), JSON, limit=10, patience=0.01)

    assert (408, "request_timeout") == told(problems.problem_of(refused.value))


@pytest.mark.parametrize("end", [web.RequestPayloadError(), ConnectionResetError()], ids=["framing", "reset"])
async def test_body_that_breaks_off(end: Exception) -> None:
    """A body that ends before it is whole is malformed, whoever would hear of it."""
    with pytest.raises(Malformed) as refused:
        await wire.read_body(await upload(end), JSON, limit=10, patience=10)

    assert "incomplete_body" == refused.value.code


# Expect.


@pytest.mark.parametrize("path", ["/v1/events", "/v1/nothing", "/livez"])
@pytest.mark.row("I62")
async def test_unknown_expectation(api: Api, path: str) -> None:
    """An expectation that nobody knows is refused in our form, on every path, and not repeated."""
    answer = read_raw(await api.send(request("POST", path, b"{}", Expect="banana")))

    assert_problem(answer, 417, "expectation_failed")
    assert b"banana" not in answer.body


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "Bad Request"), (413, "Content Too Large"), (414, "URI Too Long"), (416, "Range Not Satisfiable")],
)
async def test_title_is_that_of_the_rfc(status: int, name: str) -> None:
    """What a status is called, and the code that is made of it, is RFC 9110's in every version of Python."""
    assert name == problems.title(status)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, [b"100 ", b"422 "], id="body wanted"),
        pytest.param({"Content_Length": "10000000000"}, [b"413 "], id="I62-too large"),
        pytest.param({"Authorization": "Bearer wrong"}, [b"401 "], id="no token"),
        pytest.param({"Content_Encoding": "gzip"}, [b"415 "], id="coded"),
    ],
)
async def test_body_is_asked_for_when_it_is_read(api: Api, headers: dict[str, str], expected: list[bytes]) -> None:
    """A client that asks first sends its body only where it will be read."""
    answer = await api.send(request("POST", "/v1/events", b"{}", Expect="100-continue", **headers))

    assert expected == [line[: len(want)] for line, want in zip(re.findall(rb"HTTP/1.1 (.*)", answer), expected, strict=True)]


# What is no HTTP.


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03<script>\r\n\r\n", id="I61-TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="I61-HTTP/2"),
        pytest.param(b"GET /livez\r\n\r\n", id="I61-HTTP/0.9"),
        pytest.param(b"GET /livez HTTP/0.9\r\n\r\n", id="I61-says HTTP/0.9"),
        pytest.param(b"GET /livez HTTP/9.9\r\n\r\n", id="I61-HTTP/9.9"),
        pytest.param(b"\x00\x01\x02<script>\r\n\r\n", id="I61-bytes"),
        pytest.param(b"<script>\r\n\r\n", id="I61-text"),
        pytest.param(b"GET /" + b"<script>" * 2600 + b" HTTP/1.1\r\nHost: x\r\n\r\n", id="I63-20 KB path"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX: " + b"<script>" * 2600 + b"\r\n\r\n", id="I63-20 KB header"),
        pytest.param(b"GET /livez HTTP/1.1\r\n" + b"X: <script>\r\n" * 300 + b"\r\n", id="I63-300 headers"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX: a\0<script>\r\n\r\n", id="I63-NUL"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX: a\r\n <script>\r\n\r\n", id="I63-folded"),
        pytest.param(b"GET /livez HTTP/1.1\nX: <script>\n\n", id="I63-bare LF"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX : <script>\r\n\r\n", id="space before a colon"),
        pytest.param(b"GET /livez HTTP/1.1\r\n<script>\r\n\r\n", id="header without a colon"),
        pytest.param(b"GET /v1/events?x=\xff<script> HTTP/1.1\r\n\r\n", id="bytes in a path"),
        pytest.param(b"GET http://[::1/<script> HTTP/1.1\r\n\r\n", id="broken URL"),
        pytest.param(b"BREW /<script> HTTP/1.1\r\n\r\n", id="I59-unknown method"),
    ],
)
async def test_what_cannot_be_parsed(api: Api, sent: bytes) -> None:
    """Garbage is answered with a problem that repeats none of it, and the connection ends."""
    answer = await api.send(sent)

    told = read_raw(answer)
    assert_problem(told, 400, told.json["code"])
    assert b"script" not in answer


GARBAGE = st.binary(max_size=60) | st.from_regex(
    rb"(GET|POST|X) /?(v1/events|livez)?[ -~]{0,20} HTTP/1\\.[01](\r\n[!-~]{0,9}: ?[ -\xff]{0,9}){0,3}\r\n\r\n[ -~]{0,20}"
)


@pytest.mark.row("I87")
@given(cases=st.lists(GARBAGE, min_size=30, max_size=30))
@settings(max_examples=12, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
async def test_garbage_is_never_our_fault(api: Api, cases: list[bytes]) -> None:
    """Whatever bytes come, no answer says that we failed."""
    answers = await asyncio.gather(*(api.send(case, patience=SILENCE) for case in cases))

    assert [] == [(case, answer) for case, answer in zip(cases, answers, strict=True) if re.match(rb"HTTP/1.. 5", answer)]
    assert [] == [case for case, answer in zip(cases, answers, strict=True) if b"Traceback" in answer]


HEADER_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30)
ODD_HEADERS = (
    "Content_Type",
    "If_Match",
    "Idempotency_Key",
    "Cookie",
    "Accept",
    "Upgrade",
    "Content_Encoding",
    "X_Forwarded_For",
)


@pytest.mark.row("I88")
@given(
    cases=st.lists(
        st.tuples(
            st.sampled_from([route for route in ROUTES if route[1] != "/v1/stream"]),  # which does not end
            st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20),
            st.dictionaries(st.sampled_from(ODD_HEADERS), HEADER_VALUE, max_size=3),
            st.binary(max_size=40) | st.sampled_from([b"", b"{}", b"[]", b"null", b"[{}]", b'{"type":1}', b'{"url":[]}']),
        ),
        min_size=20,
        max_size=20,
    )
)
@settings(max_examples=15, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
async def test_odd_requests_are_never_our_fault(
    api: Api, cases: list[tuple[tuple[str, str], str, dict[str, str], bytes]]
) -> None:
    """Whatever is sent to a route with a valid token, the answer is about the request."""

    async def ask(route: tuple[str, str], query: str, headers: dict[str, str], body: bytes) -> bytes:
        return await api.send(request(route[0], f"{route[1]}?{query}", body, **headers), patience=5)

    answers = await asyncio.gather(*(ask(*case) for case in cases))

    assert [] == [case for case, answer in zip(cases, answers, strict=True) if not re.match(rb"HTTP/1.. [1-4]", answer)]


# Connections.


@pytest.mark.row("I66")
async def test_pipelined_requests(api: Api) -> None:
    """Requests sent at once are answered in their order."""
    asked = [b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n"] * 100

    answer = await api.send(b"".join(asked) + request("GET", "/readyz"))

    assert [b"200", b"401"] * 100 + [b"200"] == re.findall(rb"HTTP/1.1 (\d+)", answer)


@pytest.mark.row("I67")
async def test_upgrade_is_ignored(api: Api) -> None:
    """There are no WebSockets here: a request for one is a request like any."""
    upgrade = {
        "Connection": "Upgrade, close",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "x" * 24,
    }

    assert 200 == read_raw(await api.send(request("GET", "/livez", **upgrade))).status


@pytest.mark.row("I64")
async def test_idle_connections_end(api: Api) -> None:
    """A connection on which no whole request comes is closed after a while, whether its headers began or not."""
    server = listener.Server(api.engine._running.service, tokens={}, config=Config())
    server._options["keepalive_timeout"] = SILENCE
    await server.start(await listener.bind("127.0.0.1:0"))
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    try:
        async with asyncio.timeout(PATIENCE):
            for start in (b"", b"GET /livez HTTP/1.1\r\nX: ", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /li"):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(start)
                answered = await reader.read()
                writer.close()

                assert answered.endswith(b'{"status":"ok"}') if b"\r\n\r\n" in start else b"" == answered
    finally:
        await server.close()


@pytest.mark.row("I65")
async def test_connections_are_bounded(api: Api) -> None:
    """More connections than there are descriptors to spare are closed at once, and those before work on."""
    held = [await api.dial() for _ in range(listener._MOST_CONNECTIONS)]
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await api.dial()
            assert b"" == await reader.read()
            writer.close()
            reader, writer = held[0]
            writer.write(request("GET", "/livez"))
            assert 200 == read_raw(await reader.read()).status
    finally:
        for _, writer in held:
            writer.close()


# Faults of ours, and the end.


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        pytest.param(RuntimeError("secret detail"), 500, "internal_error", id="ours"),
        pytest.param(TimeoutError(), 500, "internal_error", id="timeout"),
        pytest.param(StorageFailed("the disk is gone"), 503, "storage_unavailable", id="storage"),
    ],
)
async def test_faults(caplog: pytest.LogCaptureFixture, raised: Exception, status: int, code: str) -> None:
    """A fault of ours is logged, and told without what it was."""

    async def handler(_: web.Request) -> web.StreamResponse:
        raise raised

    request = make_mocked_request("GET", "/", app=web.Application())
    request.writer.output_size = 0
    response = await problems.tell_errors(request, handler)

    assert (status, code) == told(response)
    assert b"secret detail" not in response.body  # type: ignore[attr-defined]  # as `told` has found
    assert (status == 500) == ("request_failed" in caplog.text)
    assert (status == 503) == ("Retry-After" in response.headers)
    caplog.clear()


async def test_fault_outside_the_middleware(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """What fails beside the handlers is logged and told in the same form."""

    async def broken(_: web.Request) -> web.StreamResponse:
        raise RuntimeError("secret detail")

    server = listener.Server(api.engine._running.service, tokens={}, config=Config())
    server._runner.app.router.add_get("/broken", broken, expect_handler=broken)
    await server.start(await listener.bind("127.0.0.1:0"))
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request("GET", "/broken", Expect="100-continue", Connection="keep-alive"))
            answer = read_raw(await reader.read())
            writer.close()
    finally:
        await server.close()

    assert_problem(answer, 500, "internal_server_error")
    assert "secret detail" in caplog.text
    caplog.clear()


async def test_stopping(tmp_path: Path) -> None:
    """While the engine stops, changes are refused with a time to come back, and questions are answered."""
    async with serving(tmp_path) as api:
        subscription = await api.subscribe()
        api.engine._running.service.refuse()
        changing = [
            await api("POST", "/v1/events", {"type": "a", "data": 1}),
            await api("POST", "/v1/subscriptions", {"url": "https://example.com/"}),
            await api("PATCH", f"/v1/subscriptions/{subscription['id']}", {"name": "x"}),
            await api("DELETE", f"/v1/subscriptions/{subscription['id']}"),
            await api("POST", f"/v1/subscriptions/{subscription['id']}/disable"),
            await api("POST", f"/v1/subscriptions/{subscription['id']}/rotate-secret"),
            await api("POST", "/v1/deliveries/dlv_x/retry"),
            await api("POST", "/v1/deliveries/dlv_x/cancel"),
        ]
        ready = await api("GET", "/readyz")

        for answer in changing:
            assert_problem(answer, 503, "stopping")
            assert "5" == answer.headers["Retry-After"]
        assert (503, "5") == (ready.status, ready.headers["Retry-After"])
        assert 200 == (await api("GET", "/livez")).status
        assert 1 == len((await api("GET", "/v1/subscriptions")).json["data"])


async def test_listens_on_ipv6(tmp_path: Path) -> None:
    """An address in brackets is an IPv6 one, and the URL has them too."""
    async with Engine(tmp_path / "hooks.db", config=Config(security=LOOPBACK), serve="[::1]:0") as engine:
        assert engine.url is not None
        assert re.fullmatch(r"http://\[::1\]:[0-9]+", engine.url)


@pytest.mark.parametrize("listen", ["127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1", "[::1", "203.0.113.1:0", "{taken}"])
async def test_cannot_listen(api: Api, tmp_path: Path, listen: str) -> None:
    """An address that cannot be listened on keeps the engine from starting, with a sentence that names it."""
    assert api.engine.url is not None
    address = listen.replace("{taken}", api.engine.url.removeprefix("http://"))
    engine = Engine(tmp_path / "hooks.db", serve=address)

    with pytest.raises(StartError, match=re.escape(f"cannot listen on {address}: ")):
        await engine.start()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/events"), ("POST", "/v1/events/batch"), ("POST", "/v1/deliveries/x/retry"), ("PUT", "/v1/tenants/x")],
)
async def test_scope_is_asked_for_before_the_body(api: Api, method: str, path: str) -> None:
    """Who may not do something hears that, whatever he sends with it."""
    token = (await api.made("/v1/tokens", {"user": f"{method}{len(path)}", "scopes": ["events:read"]}))["token"]
    for body in (b"garbage", b'{"zz":1}', b"x" * (SMALL.max_batch_body + 1)):
        answer = await api(method, path, body, token=token)

        assert (403, "forbidden") == (answer.status, answer.json["code"])


@pytest.mark.parametrize("path", ["/docs/", "/docs/nothing", "/docs/../v1/events"])
async def test_what_is_beside_the_documents(api: Api, path: str) -> None:
    """Beside the files of the reference there is nothing, and no token is asked for."""
    answer = await api("GET", path, token="wrong")

    assert answer.status in {401, 404}
    assert (answer.status == 401) == (".." in path)
