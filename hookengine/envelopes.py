"""Envelopes: how the body of a request is made of an event."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
import orjson
from msgspec import Raw, Struct
from msgspec.structs import replace

from hookengine.javascript import stringify
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hookengine.models import Event, Subscription

_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_BLANKS = b" \t\r\n"
TEST_TYPE = "hookengine.test"
TEST_DATA = b'{"test":true,"message":"This is a test event. Nothing has happened."}'

# One of the five that CleverTap's documentation shows, all alike; it prints this in place of an address.
_SAMPLE_PROFILE = b'{"Identity":"UserId","Email":"[email protected]","push_token":"Token"}'

_UUID = re.compile(r"(?:evt_)?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})")


class Ping(Struct, frozen=True, kw_only=True):
    """What the test that saving a subscription takes sends in place of an event; its id begins with `id_prefix`."""

    type: str = TEST_TYPE
    data: bytes = TEST_DATA
    id_prefix: str = "test"


class Envelope(Struct, frozen=True, kw_only=True):
    """
    How the body is made of the event.

    Where the subscription is gone, `make` takes the defaults for what is the subscription's own.
    """

    name: str
    make: Callable[[Event, Subscription | None], bytes]
    make_batch: Callable[[Sequence[Event], Subscription | None], bytes] | None = None  # where it can hold several events
    addressed: bool = False  # holds `target_id` and `key_values`; a GET has `key_values` in its URL and no body
    ping: Ping = Ping()
    for_tests: Envelope | None = None  # what takes its place in tests, where they are marked as such
    mark: Mapping[str, Any] = MappingProxyType({})  # pairs that a GET has in its query beside `key_values`


def with_query(url: str, key_values: Mapping[str, Any]) -> str:
    """*url* with *key_values* after the pairs that it has, which stay as they are written; values but texts are JSON."""
    pairs = [f"{_quoted(name)}={_quoted(value)}" for name, value in key_values.items()]
    if not pairs:
        return url
    mark = "" if url.endswith(("?", "&")) else "&" if "?" in url else "?"
    return url + mark + "&".join(pairs)


def _quoted(value: Any) -> str:
    return quote(value if isinstance(value, str) else orjson.dumps(value), safe="")


def _standard(event: Event, _: Subscription | None) -> bytes:
    """Standard Webhooks; `data` is spliced in as the producer wrote it."""
    occurred_at = format_time(event.occurred_at)
    return b'{"type":%b,"timestamp":"%b","data":%b}' % (orjson.dumps(event.type), occurred_at.encode(), event.data)


def _data(event: Event, _: Subscription | None) -> bytes:
    return event.data


def _clearfeed(event: Event, _: Subscription | None) -> bytes:
    """The members of `data`, and before them those of ours that it does not have."""
    type_, _dot, sub_type = event.type.partition(".")
    ours = {"id": _bare_id(event.id), "type": type_, "sub_type": sub_type}
    data = event.data.lstrip(_BLANKS)
    if not data.startswith(b"{"):
        return orjson.dumps(ours)[:-1] + b',"data":%b}' % event.data
    given = _OBJECT.decode(data)
    missing = {name: value for name, value in ours.items() if name not in given}
    if not missing:
        return event.data
    return orjson.dumps(missing)[:-1] + (b"," if given else b"") + data[1:]


def _clearfeed_test(event: Event, subscription: Subscription | None) -> bytes:
    """The same, but with the test's own id also where `data` has one, as the example of a type may: it says what this is."""
    if event.data.lstrip(_BLANKS).startswith(b"{"):
        members = {name: value for name, value in _OBJECT.decode(event.data).items() if name != "id"}
        event = replace(event, data=msgspec.json.encode(members))
    return _clearfeed(event, subscription)


def _bare_id(id_: str) -> str:
    """The 32 hex digits of a UUID; an id of the producer's own is used as it is."""
    found = _UUID.fullmatch(id_)
    return "".join(found.groups()) if found else id_


def _clarife(event: Event, _: Subscription | None) -> bytes:
    """What the published receiver prints again and hashes: the whole body is as JSON.stringify has it."""
    return b'{"id":%b,"type":%b,"created_at":"%bZ","data":%b}' % (
        orjson.dumps(event.id),
        orjson.dumps(event.type),
        format_time(event.occurred_at)[:19].encode(),  # to the second
        stringify(event.data),
    )


def _clevertap(event: Event, subscription: Subscription | None) -> bytes:
    return _clevertap_batch([event], subscription)


def _clevertap_batch(events: Sequence[Event], subscription: Subscription | None) -> bytes:
    """Each event's `data` is one profile."""
    target_id, key_values = (0, {}) if subscription is None else (subscription.target_id, subscription.key_values)
    profiles = b",".join([event.data for event in events])
    return b'{"targetId":%d,"key_values":%b,"profiles":[%b]}' % (target_id, orjson.dumps(key_values), profiles)


def _clevertap_test(event: Event, subscription: Subscription | None) -> bytes:
    """The same, and says first that it is a test."""
    return b'{"is_test":true,' + _clevertap(event, subscription)[1:]


ENVELOPES: Mapping[str, Envelope] = MappingProxyType(
    {
        envelope.name: envelope
        for envelope in (
            Envelope(name="standard", make=_standard),
            Envelope(name="data", make=_data),
            Envelope(
                name="clearfeed",
                make=_clearfeed,
                ping=Ping(type="ping.test", data=b"{}", id_prefix="evt"),
                for_tests=Envelope(name="clearfeed", make=_clearfeed_test),
            ),
            Envelope(name="clarife", make=_clarife),
            Envelope(
                name="clevertap",
                make=_clevertap,
                make_batch=_clevertap_batch,
                addressed=True,
                ping=Ping(data=b",".join([_SAMPLE_PROFILE] * 5)),
                for_tests=Envelope(name="clevertap", make=_clevertap_test, addressed=True, mark={"is_test": True}),
            ),
        )
    }
)
