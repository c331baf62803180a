"""The document of the API: whether it is one, and whether it says of each route what the route does."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from api import JSON, serving
from openapi_spec_validator import OpenAPIV31SpecValidator
from test_service import OPERATIONS

from hookengine.api import Api as PythonApi
from hookengine.errors import RequestError
from hookengine.models import ErrorCode
from hookengine.server import docs, openapi, problems, routes
from hookengine.server.route import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from api import Api

PACKAGE = Path(__file__).parent.parent / "hookengine"
DOCUMENT = orjson.loads(routes.document().content)
SCHEMAS = DOCUMENT["components"]["schemas"]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server."""
    async with serving(tmp_path) as made:
        yield made


class Odd:
    """A type that nobody knows."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each operation."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def everything(value: Any) -> Iterator[Any]:
    """All objects in *value*, at any depth."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from everything(each)


def subclasses(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    """All below *kind*."""
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_document_is_valid() -> None:
    """It is what the specification of OpenAPI 3.1 asks for."""
    assert [] == list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())


def test_every_route_is_described() -> None:
    """What is served is in the document and the other way round, but for the pages that show it."""
    served = {(route.method, route.path) for route in routes.table()}

    assert {(method, path) for method, path, _ in operations()} == served - {("GET", path) for path in docs.FILES}


def test_operations_are_those_of_python() -> None:
    """An operation is called as the method of the Python API that does the same, and has the scope that the service wants."""
    named = {operation["operationId"]: (path, operation) for _, path, operation in operations()}

    assert len(list(operations())) == len(named)
    assert [] == [name for name, (path, _) in named.items() if path.startswith("/v1/") and not hasattr(PythonApi, name)]
    scopes = {name: operation["security"] for name, (_, operation) in named.items() if name in OPERATIONS}
    assert {name: [{"bearer": [scope.value]}] for name, (scope, _) in OPERATIONS.items() if name in named} == scopes


@pytest.mark.parametrize(
    ("method", "path"), [pytest.param(method, path, id=f"{method} {path}") for method, path, _ in operations()]
)
async def test_token_is_asked_for_where_it_is_said(api: Api, method: str, path: str) -> None:
    """Who has no token gets in exactly where the document says that none is needed."""
    answer = await api(method, in_use(path), token="wrong")

    assert (DOCUMENT["paths"][path][method.lower()]["security"] == []) == (answer.status != 401)


def in_use(path: str) -> str:
    """A path with something in the place of its parameters."""
    return re.sub(r"\{[a-z]+\}", "x", path)


LISTS = [route for route in routes.ROUTES if route.method == "GET" and route.query and route.name != "event"]


@pytest.mark.parametrize("route", LISTS, ids=lambda route: route.name)
async def test_parameters_are_those_that_are_taken(api: Api, route: Route) -> None:
    """Of all parameters that there are, a route takes those in its description, and no other."""
    names = {name for each in LISTS for name in each.parameters}
    wrong = "&".join(f"{name}=%20" for name in sorted(names))
    answer = await api("GET", f"{in_use(route.path)}?{wrong}&nonsense=1")

    unknown = {error["parameter"] for error in answer.json["errors"] if error["code"] == "unknown_parameter"}
    assert names - route.parameters.keys() | {"nonsense"} == unknown


def test_references_lead_somewhere() -> None:
    """Every schema that is referred to is there, under a name that generators of code can use."""
    names = {each["$ref"].removeprefix("#/components/schemas/") for each in everything(DOCUMENT) if "$ref" in each}

    assert names <= SCHEMAS.keys()
    assert [] == [name for name in SCHEMAS if not re.fullmatch(r"[A-Za-z]+", name)]


def test_patterns_are_those_of_every_language() -> None:
    """No pattern holds what only Python reads (ECMA-262), and each is the one that is checked."""
    patterns = {each["pattern"] for each in everything(DOCUMENT) if isinstance(each.get("pattern"), str)}

    assert len(patterns) > 5
    assert [] == [pattern for pattern in patterns if re.search(r"\\Z|\\A|\(\?P|\(\?[aimsux]", pattern)]
    assert "^(?:[A-Za-z0-9_]+([.:/-][A-Za-z0-9_]+)*)$" == SCHEMAS["EventInput"]["properties"]["type"]["pattern"]


@pytest.mark.parametrize(
    ("name", "member", "expected"),
    [
        pytest.param("EventInput", "data", {}, id="data is any JSON"),
        pytest.param("EventDetail", "data", {"description": "Any JSON value, as the producer wrote it."}, id="and stays it"),
        pytest.param("Event", "accepted_at", {"type": "string", "format": "date-time"}, id="time"),
        pytest.param("AttemptError", "code", {"type": "string", "enum": [code.value for code in ErrorCode]}, id="error code"),
    ],
)
def test_own_types_are_described(name: str, member: str, expected: dict[str, Any]) -> None:
    """What is written otherwise in JSON than in Python is described as it is in JSON."""
    assert expected == SCHEMAS[name]["properties"][member]


@pytest.mark.parametrize("name", ["EventInput", "SubscriptionInput", "SubscriptionPatch"])
def test_members_are_described(name: str) -> None:
    """Each member of what is published and subscribed has a sentence, but for data, which may be anything."""
    assert [] == [
        member for member, schema in SCHEMAS[name]["properties"].items() if not schema.get("description", member == "data")
    ]


def test_duration_is_described() -> None:
    """A duration is a text of a number and a unit."""
    [text, null] = SCHEMAS["SubscriptionInput"]["properties"]["timeout"]["anyOf"]

    assert ("string", {"type": "null"}) == (text["type"], null)
    assert all(re.search(text["pattern"], example) for example in text["examples"])


def test_unknown_type_is_a_fault() -> None:
    """A type that nobody has described does not get into the document."""
    route = Route("GET", "/odd", routes.ROUTES[0].handler, "odd", "Odd", None, answer=Odd)
    with pytest.raises((TypeError, NotImplementedError)):
        openapi.describe([route])


def test_patch_takes_part_of_a_subscription() -> None:
    """A patch has the members of a subscription, none of which must be there."""
    whole, patch = SCHEMAS["SubscriptionInput"], SCHEMAS["SubscriptionPatch"]

    assert (["url"], False) == (whole["required"], patch["additionalProperties"])
    assert (whole["properties"], None) == (patch["properties"], patch.get("required"))


def test_every_code_is_described() -> None:
    """All codes of the tree of errors are in the schema of a problem, and those that are given where it is raised."""
    raised = set()
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Malformed"):
                raised |= {keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)}
    described = set(SCHEMAS["Problem"]["properties"]["code"]["enum"])

    assert {kind.code for kind in subclasses(RequestError)} <= described
    assert raised == set(problems.MALFORMED_CODES) - {"malformed"}
    assert raised <= described


def test_problems_have_their_codes() -> None:
    """Each answer that is a problem names the codes that it may have; what is changed may be refused while it stops."""
    cancel = DOCUMENT["paths"]["/v1/deliveries/{id}/cancel"]["post"]["responses"]

    assert "Conflict: `delivery_state_conflict`" == cancel["409"]["description"]
    assert "Service Unavailable: `stopping`, `storage_unavailable`" == cancel["503"]["description"]
    assert ["application/problem+json"] == list(cancel["404"]["content"])
    assert {"202", "400", "401", "403", "404", "409", "413", "415", "422", "429", "503"} == cancel.keys()
    assert "404" not in DOCUMENT["paths"]["/v1/events"]["get"]["responses"]


def test_headers_are_described() -> None:
    """Idempotency-Key, If-Match, ETag, Location and Last-Event-ID stand where they are read and sent."""

    def headers(method: str, path: str) -> tuple[set[str], set[str]]:
        operation = DOCUMENT["paths"][path][method]
        taken = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "header"}
        first = min(operation["responses"])
        return taken, set(operation["responses"][first].get("headers", ()))

    assert ({"Idempotency-Key"}, {"ETag", "Location", "Idempotent-Replayed"}) == headers("post", "/v1/subscriptions")
    assert ({"If-Match"}, {"ETag"}) == headers("patch", "/v1/subscriptions/{id}")
    assert ({"Last-Event-ID"}, set()) == headers("get", "/v1/stream")


async def test_document_is_served(api: Api) -> None:
    """It is there for everybody, and needs not be sent again to who has it."""
    answer = await api("GET", "/openapi.json", token="wrong")
    again = await api("GET", "/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})

    assert (200, DOCUMENT) == (answer.status, answer.json)
    assert JSON == answer.headers["Content-Type"].partition(";")[0]
    assert (304, b"") == (again.status, again.body)
