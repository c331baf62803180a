"""Bodies of events, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hookengine.envelopes import ENVELOPES, with_query
from hookengine.models import Event, Subscription

EVENT = Event(
    seq=1,
    id="evt_018bcfe5-687b-7000-8000-000000000001",
    tenant="acme",
    type="request.created",
    data=b"{}",
    accepted_at=1_699_999_999_000,
    occurred_at=1_699_999_000_987,
)
SUBSCRIPTION = Subscription(
    seq=1, id="sub_1", tenant="acme", url="https://example.com/", event_types=("*",), profile="x", created_at=0, updated_at=0
)
HEX = "018bcfe5687b70008000000000000001"


def body(envelope: str, data: str, subscription: Subscription | None = SUBSCRIPTION, **changes: Any) -> str:
    """What is sent of an event with *data*."""
    return ENVELOPES[envelope].make(replace(EVENT, data=data.encode(), **changes), subscription).decode()


def test_standard() -> None:
    """Type, time to the millisecond, and the data as it was written."""
    expected = '{"type":"request.created","timestamp":"2023-11-14T21:56:40.987Z","data": {"n" : 1.10}\n}'

    assert expected == body("standard", ' {"n" : 1.10}\n')


def test_data() -> None:
    """The data and nothing around it."""
    assert ' {"n" : 1.10}\n' == body("data", ' {"n" : 1.10}\n')


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('{"a": 1.10}', f'{{"id":"{HEX}","type":"request","sub_type":"created","a": 1.10}}'),
        ('\n { "a" : 1 }', f'{{"id":"{HEX}","type":"request","sub_type":"created", "a" : 1 }}'),
        ("{}", f'{{"id":"{HEX}","type":"request","sub_type":"created"}}'),
        (" { } ", f'{{"id":"{HEX}","type":"request","sub_type":"created" }} '),
        ('{"a":1,"id":7}', '{"type":"request","sub_type":"created","a":1,"id":7}'),
        ('{"typ\\u0065":"t"}', f'{{"id":"{HEX}","sub_type":"created","typ\\u0065":"t"}}'),
        (' {"sub_type":1,"type":2,"id":3}', ' {"sub_type":1,"type":2,"id":3}'),
        ('{"a":{"id":1}}', f'{{"id":"{HEX}","type":"request","sub_type":"created","a":{{"id":1}}}}'),
        ('{"a":1,"a":1e999}', f'{{"id":"{HEX}","type":"request","sub_type":"created","a":1,"a":1e999}}'),
        ("[1, 2]", f'{{"id":"{HEX}","type":"request","sub_type":"created","data":[1, 2]}}'),
        (' "{" ', f'{{"id":"{HEX}","type":"request","sub_type":"created","data": "{{" }}'),
        ("null", f'{{"id":"{HEX}","type":"request","sub_type":"created","data":null}}'),
    ],
)
def test_clearfeed(data: str, expected: str) -> None:
    """The members of the data, as they are written, and before them those that are not among them."""
    assert expected == body("clearfeed", data)


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("request.created", ("request", "created")),
        ("request.thread.created", ("request", "thread.created")),
        ("ping", ("ping", "")),
        ("a:b.c", ("a:b", "c")),
    ],
)
def test_clearfeed_cuts_the_type_at_the_first_dot(type_: str, expected: tuple[str, str]) -> None:
    """What is before the first dot is the type, the rest the sub-type, if only an empty one."""
    members = json.loads(body("clearfeed", "{}", type=type_))

    assert expected == (members["type"], members["sub_type"])


@pytest.mark.parametrize(
    ("id_", "expected"),
    [
        (EVENT.id, HEX),
        ("018bcfe5-687b-7000-8000-000000000001", HEX),
        ("order-1001", "order-1001"),
        ("evt_1", "evt_1"),
        ("evt_018bcfe5-687b-7000-8000-00000000000", "evt_018bcfe5-687b-7000-8000-00000000000"),
    ],
)
def test_clearfeed_id_is_the_uuid_in_hex(id_: str, expected: str) -> None:
    """A UUID is 32 hex digits; an id of the producer's own stays as it is."""
    assert expected == json.loads(body("clearfeed", "{}", id=id_))["id"]


def test_clarife() -> None:
    """The time goes to the second, and the data is as JavaScript prints it."""
    expected = (
        '{"id":"evt_018bcfe5-687b-7000-8000-000000000001","type":"request.created","created_at":"2023-11-14T21:56:40Z",'
        '"data":{"1":"é","a":1.1}}'
    )

    assert expected == body("clarife", ' { "a" : 1.10 , "1" : "\\u00e9" }')


def test_clevertap() -> None:
    """The subscription's members, and the data as it was written as the one profile."""
    addressed = replace(SUBSCRIPTION, target_id=-5, key_values={"b": {"ü": [1.5, None]}, "a": "x"})

    assert '{"targetId":-5,"key_values":{"b":{"ü":[1.5,null]},"a":"x"},"profiles":[ {"n" : 1.10}]}' == body(
        "clevertap", ' {"n" : 1.10}', addressed
    )
    assert '{"targetId":0,"key_values":{},"profiles":[1]}' == body("clevertap", "1") == body("clevertap", "1", None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(data=json_values, envelope=st.sampled_from(list(ENVELOPES.values())))
def test_every_body_is_json(data: Any, envelope: Any) -> None:
    """Whatever the data, the body is one JSON text in which it is found again."""
    sent = json.loads(envelope.make(replace(EVENT, data=json.dumps(data).encode()), SUBSCRIPTION))
    match envelope.name:
        case "data":
            found = sent
        case "clevertap":
            [found] = sent["profiles"]
        case "clearfeed" if isinstance(data, dict):
            found = {name: value for name, value in sent.items() if name in data}
        case _:
            found = sent["data"]

    assert data == found


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://x/p", "https://x/p?a=1"),
        ("https://x/p?", "https://x/p?a=1"),
        ("https://x/p?b=%7e+~", "https://x/p?b=%7e+~&a=1"),
        ("https://x/p?b&", "https://x/p?b&a=1"),
        ("https://x", "https://x?a=1"),
    ],
)
def test_query_is_added_to(url: str, expected: str) -> None:
    """The pairs that a URL has stay as they are written."""
    assert expected == with_query(url, {"a": "1"})
    assert url == with_query(url, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("two words", "two%20words"),
        ("a+b&c=d/e?f#g%", "a%2Bb%26c%3Dd%2Fe%3Ff%23g%25"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("-_.~", "-_.~"),
        ("", ""),
        (1, "1"),
        (1.5, "1.5"),
        (True, "true"),
        (None, "null"),
        ({"a": [1]}, "%7B%22a%22%3A%5B1%5D%7D"),
    ],
)
def test_values_in_a_query(value: Any, expected: str) -> None:
    """Names and values are percent-encoded, a space as %20; what is no text is JSON."""
    assert f"https://x?two%20words={expected}" == with_query("https://x", {"two words": value})


def test_clevertap_in_tests() -> None:
    """Tests say so first; the five sample profiles of the save are those of CleverTap's documentation."""
    envelope = ENVELOPES["clevertap"]
    assert envelope.for_tests is not None
    made = envelope.for_tests.make(replace(EVENT, data=envelope.ping.data), SUBSCRIPTION)
    sample = {"Identity": "UserId", "Email": "[email protected]", "push_token": "Token"}

    assert b'{"is_test":true,"targetId":' == made[:27]
    assert [sample] * 5 == json.loads(made)["profiles"]
    assert {"is_test": True} == envelope.for_tests.mark


def test_pings() -> None:
    """ClearFeed's ping is its own and has an id in hex; the others send a test event, which says that it is one."""
    ping = ENVELOPES["clearfeed"].ping

    assert ("ping.test", b"{}", "evt") == (ping.type, ping.data, ping.id_prefix)
    for name in ("standard", "data", "clarife"):
        ping = ENVELOPES[name].ping
        assert ("hookengine.test", True, "test") == (ping.type, json.loads(ping.data)["test"], ping.id_prefix)


def test_table() -> None:
    """Every envelope stands under its own name; one of them has a place for the subscription's members and for several."""
    assert ["standard", "data", "clearfeed", "clarife", "clevertap"] == list(ENVELOPES)
    assert [("clevertap", True, True)] == [
        (name, each.addressed, each.make_batch is not None)
        for name, each in ENVELOPES.items()
        if each.addressed or each.make_batch is not None
    ]
    assert all(name == each.name for name, each in ENVELOPES.items())
