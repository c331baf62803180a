"""Schemes are data: those that fit together, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from vectors import scheme

from hookengine.schemes import SCHEMES


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"algorithm": "md5"}, "algorithm is one of hmac-sha256"),
        ({"encoding": "base32"}, "encoding is one of"),
        ({"key": "hex"}, "key is one of"),
        ({"timestamp": "now"}, "timestamp is one of"),
        ({"algorithm": "ed25519"}, "the key of ed25519 is base64"),
        ({"several": True}, "need a separator"),
        ({"value": "v1="}, r"value has \{signature\}"),
        ({"value": "t={timestamp}.{signature}"}, "in an item of its own"),
        ({"value": "{signature},{signature}", "separator": ","}, "in an item of its own"),
        ({"value": "{timestamp},v1={signature}", "separator": ","}, "nothing tells the timestamp from"),
        ({"value": "a{timestamp},{signature}", "separator": ","}, "nothing tells the timestamp from"),
        ({"value": "t{timestamp},{signature}", "separator": ",", "encoding": "base64"}, "nothing tells the timestamp from"),
        ({"value": "{timestamp}=,{signature}", "separator": ",", "encoding": "base64"}, "nothing tells the timestamp from"),
        ({"value": "t={timestamp}/v1={signature}", "separator": "/", "encoding": "base64"}, r"in the item of \{signature\}"),
        ({"value": "t={timestamp}+v1={signature}", "separator": "+", "encoding": "base64"}, r"in the item of \{signature\}"),
        ({"separator": "=", "several": True, "encoding": "base64"}, r"in the item of \{signature\}"),
        ({"value": "v-{signature}", "separator": "-a"}, r"in the item of \{signature\}"),
        ({"value": "{signature}-", "separator": "--", "several": True}, r"in the item of \{signature\}"),
        ({"value": "t={timestamp}0v={signature}", "separator": "0"}, r"in the item of \{timestamp\}"),
        ({"value": " v1={signature}"}, "begins or ends with a blank"),
        ({"value": "v1={signature} "}, "begins or ends with a blank"),
        ({"value": "{id},{signature}", "separator": ","}, "no braces but those of signature, timestamp"),
        ({"signed": "{timestamp}"}, r"signed has \{body\} once"),
        ({"signed": "{body}{body}"}, r"signed has \{body\} once"),
        ({"signed": "{body}{type}"}, "no braces but those of body, id, method, timestamp, url"),
        ({"signed": "{body}{0}"}, "no braces"),
        ({"signed": "{body}}"}, "no braces"),
        ({"signed": "{body.__class__}"}, "no braces"),
        ({"signed": "{id}{body}"}, "id_header"),
        ({"signed": "{timestamp}{body}"}, "timestamp_header"),
    ],
)
def test_schemes_that_do_not_fit_together(fields: dict[str, Any], expected: str) -> None:
    """A scheme that could not sign or verify is refused when it is made."""
    with pytest.raises(ValueError, match=expected):
        scheme(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": "t={timestamp}/v1={signature}", "separator": "/"},  # no hex digit
        {"value": "t={timestamp},{signature}", "separator": ",", "encoding": "base64"},  # whose = stand at its end
        {"value": "a={timestamp},{signature}", "separator": ","},
        {"value": "t={timestamp}, v1={signature}", "separator": ", ", "several": True},
        {"value": "t={timestamp};a v1={signature}", "separator": ";a "},
        {"value": "{timestamp}-,-{signature}", "separator": ",", "encoding": "base64", "algorithm": "hmac-sha512"},
    ],
)
def test_schemes_whose_items_are_told_apart(fields: dict[str, Any]) -> None:
    """Characters that a variable may hold do no harm where they can stand for nothing else."""
    assert fields["value"] == scheme(**fields).value


def test_schemes_are_values() -> None:
    """Schemes of the same fields are equal and hash alike."""
    assert scheme() == scheme()
    assert hash(scheme()) == hash(scheme())
    assert scheme() != scheme(header="X-Other")
    assert "templates" not in repr(scheme())


@pytest.mark.parametrize(
    ("fields", "text", "takes", "takes_public"),
    [
        pytest.param({}, "anything", True, False, id="any secret"),
        pytest.param({"prefix": "a_"}, "a_b", True, False, id="prefix"),
        pytest.param({"prefix": "a_"}, "b_a_", False, False, id="another prefix"),
        pytest.param({"prefix": "s_", "public_prefix": "p_"}, "p_x", False, True, id="public key"),
        pytest.param({"prefix": "s_", "public_prefix": "p_"}, "s_x", True, False, id="secret beside public keys"),
    ],
)
def test_forms_of_secrets(fields: dict[str, Any], text: str, *, takes: bool, takes_public: bool) -> None:
    """By how it begins a text is a secret or a public key of a scheme, or neither."""
    row = scheme(**fields)

    assert (takes, takes_public, takes or takes_public) == (row.takes(text), row.takes_public(text), row.fits(text))


def test_the_table_is_not_to_be_changed() -> None:
    """What a receiver imports is the same for all in its process."""
    with pytest.raises(TypeError):
        SCHEMES["standard"] = ()  # type: ignore[index]  # what must fail
