"""Everything that /openapi.json admits, asked of a real daemon: its answers are those that the document describes."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import orjson
from daemon import Daemon
from patience import PATIENCE

from hookengine.receiver import Receiver
from hookengine.server.routes import ROUTES, document

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,ignored_auth,unsupported_method,negative_data_rejection"
)

# The ids are of what is there, so that most answers are no 404. What breaks a rule may also be too large, or not match.
SETTINGS = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "412", "413", "415", "422"]
[[operations]]
include-path-regex = "^/v1/events/[{{]id"
parameters = {{ id = "{event}" }}
[[operations]]
include-path-regex = "^/v1/deliveries/[{{]id"
parameters = {{ id = "{delivery}" }}
[[operations]]
include-path-regex = "^/v1/subscriptions/[{{]id"
exclude-method = "DELETE"
parameters = {{ id = "{subscription}" }}
"""


async def populate(daemon: Daemon) -> dict[str, str]:
    """The ids of a subscription with every kind of setting, of an event, and of a delivery that was tried and gave up."""
    async with Receiver(503) as receiver:
        subscription = await daemon.subscribe(
            receiver.url,
            headers={"X-Key": "v"},
            auth={"type": "basic", "username": "u", "password": "p"},
            metadata={"a": [1]},
            retry_schedule=[],
            timeout="5s",
        )
        event = await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": {"a": 1.5}, "ordering_key": "k"})
        async with asyncio.timeout(PATIENCE):
            while not (page := await daemon.ask("GET", f"/v1/deliveries?event={event['id']}&state=failed"))["data"]:
                pass
    return {"subscription": subscription, "event": event["id"], "delivery": page["data"][0]["id"]}


async def examine(daemon: Daemon, folder: Path, description: Any, *options: str) -> tuple[int, str]:
    """What schemathesis says of the daemon's answers, in the same order every time: its exit status and its words."""
    (folder / "openapi.json").write_bytes(orjson.dumps(description))
    token = (daemon.data / "admin.token").read_text().strip()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", daemon.url),
        *("--header", f"Authorization: Bearer {token}", "--exclude-path", "/v1/stream"),  # which does not end
        *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "3"),
        *("--generation-deterministic", "--continue-on-failure", "--warnings", "off", "--no-color", *options),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(120):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_answers_are_as_described(tmp_path: Path) -> None:
    """Whatever is asked, no answer is a fault of ours, and each has a status, a type, headers and a body that it may have."""
    async with Daemon(tmp_path) as daemon:
        (tmp_path / "schemathesis.toml").write_text(SETTINGS.format(**await populate(daemon)))
        status, said = await examine(daemon, tmp_path, orjson.loads(document().content))

    assert 0 == status, said
    assert f"Tested: {len(ROUTES) - 1}" in said, said


async def test_answer_that_is_not_as_described_is_found(tmp_path: Path) -> None:
    """The test above can fail: a document that says something else of one member of one answer is found out."""
    described = orjson.loads(document().content)
    described["components"]["schemas"]["Attempt"]["properties"]["duration_ms"] = {"type": "string"}
    async with Daemon(tmp_path) as daemon:
        (tmp_path / "schemathesis.toml").write_text(SETTINGS.format(**await populate(daemon)))
        status, said = await examine(daemon, tmp_path, described, "--include-name", "GET /v1/deliveries/{id}")

    assert (1, True) == (status, "duration_ms" in said), said
