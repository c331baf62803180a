"""The pages that describe the API: from the package alone, and harmless."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from api import Api, request, serving

from hookengine.server import docs, problems

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLDER = Path(docs.__file__).parent / "static"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here."""
    async with serving(tmp_path_factory.mktemp("docs")) as made:
        yield made


@pytest.mark.parametrize("path", docs.FILES)
async def test_files_are_served(api: Api, path: str) -> None:
    """Each file is there for everybody, as it is in the package, with headers that keep it from doing harm."""
    answer = await api("GET", path, token="wrong")
    head = await api("HEAD", path, token="wrong")
    name, media_type = docs.FILES[path]

    assert (200, (FOLDER / name).read_bytes()) == (answer.status, answer.body)
    assert (200, b"", answer.headers["ETag"]) == (head.status, head.body, head.headers["ETag"])
    assert media_type == answer.headers["Content-Type"].partition(";")[0]
    assert "no-cache" == answer.headers["Cache-Control"]
    kept = {name: value for name, value in problems.SAFE.items() if name != "Cache-Control"}
    assert kept.items() <= answer.headers.items()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param("{tag}", 304, id="same"),
        pytest.param('"x", W/{tag}', 304, id="among others, weak"),
        pytest.param("*", 304, id="any"),
        pytest.param('"x"', 200, id="other"),
        pytest.param("nonsense", 200, id="nonsense"),
    ],
)
async def test_what_is_known_is_not_sent_again(api: Api, sent: str, status: int) -> None:
    """A browser that has a file is told so, with the headers that it needs to keep it."""
    tag = (await api("GET", "/docs")).headers["ETag"]
    answer = await api("GET", "/docs", headers={"If-None-Match": sent.replace("{tag}", tag)})

    assert (status, tag, "no-cache") == (answer.status, answer.headers["ETag"], answer.headers["Cache-Control"])
    assert (status == 304) == (answer.body == b"")


async def test_policy_admits_nothing_else(api: Api) -> None:
    """Scripts and styles come from the server itself, nothing stands inline, and no page may frame this one."""
    answer = await api("GET", "/docs")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))

    assert ("'none'", "'self'", "'self'", "'self'") == tuple(
        policy[name] for name in ("default-src", "script-src", "style-src", "connect-src")
    )
    assert {"'none'"} == {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")}
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    page = answer.body.decode()
    assert [] == re.findall(r"https?:|style=|\bon\w+=|<script>|<style", page)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', page)) <= {path[1:] for path in docs.FILES} | {"openapi.json"}


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/README.md",
        "/docs/LICENSE",
        "/docs/../pyproject.toml",
        "/docs/%2e%2e/docs.py",
        "/docs/..%2fdocs.py",
        "/docs//etc/passwd",
        "/docs/swagger-ui.css/",
        "/docs/swagger-ui.css%00.js",
        "/static/docs.html",
        "/docs/%5c..%5cdocs.py",
    ],
)
async def test_no_path_leads_elsewhere(api: Api, path: str) -> None:
    """Only the named files are served, whatever stands in the path."""
    answer = await api.send(request("GET", path))

    assert re.match(rb"HTTP/1.1 40[014] ", answer)


async def test_licences_come_with_the_files() -> None:
    """What is other people's is in the package with its licence, and the version is written down."""
    assert "Apache License" in (FOLDER / "LICENSE").read_text()
    assert (FOLDER / "NOTICE").exists()
    assert (FOLDER / "swagger-ui-bundle.js.LICENSE.txt").exists()
    assert re.search(r"swagger-ui-dist \d+\.\d+\.\d+", (FOLDER / "README.md").read_text())
