"""The records: they do not change, do not show secrets, and hold the values that the contract names."""

from __future__ import annotations

import copy
import pprint
import traceback
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct
from rich.pretty import pretty_repr

from hookengine import models
from hookengine.models import (
    Attempt,
    AttemptError,
    BasicAuth,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Interrupted,
    Outcome,
    Priority,
    Rank,
    Request,
    Response,
    Rules,
    Secret,
    SigningSecret,
    Subscription,
    SubscriptionState,
    Trigger,
    WhileDisabled,
)

RECORDS = [
    kind for kind in vars(models).values() if isinstance(kind, type) and issubclass(kind, Struct) and kind is not Struct
]

SUBSCRIPTION = Subscription(
    seq=1,
    id="sub_1",
    tenant="acme",
    url="https://example.com/hook",
    event_types=("*",),
    profile="standard",
    headers=(("x-api-key", Secret("hush-header")),),
    auth=BasicAuth(username="ana", password=Secret("hush-password")),
    secrets=(SigningSecret(value=Secret("whsec_hush")), SigningSecret(value=Secret("whsec_hush_old"), expires_at=1)),
    created_at=0,
    updated_at=0,
)
HOLDERS: dict[str, object] = {
    "secret": Secret("hush"),
    "auth": SUBSCRIPTION.auth,
    "signing secret": SUBSCRIPTION.secrets[0],
    "subscription": SUBSCRIPTION,
    "request": Request(method="POST", url="https://example.com", headers=SUBSCRIPTION.headers, body=b"{}"),
    "attempt": Attempt(
        number=1,
        at=0,
        duration=1,
        trigger=Trigger.AUTO,
        outcome=Interrupted(),
        request=Request(method="POST", url="https://example.com", headers=SUBSCRIPTION.headers, body=b"{}"),
    ),
}


def traceback_of(holder: object) -> str:
    """A traceback with the locals of its frames, of which *holder* is one, as error reporters make it."""
    with pytest.raises(ValueError, match="no number") as raised:
        int("no number")
    return "".join(traceback.TracebackException.from_exception(raised.value, capture_locals=True).format())


@pytest.mark.parametrize("kind", RECORDS)
def test_records_are_frozen_slotted_and_keyword_only(kind: type[Struct]) -> None:
    """No record changes after it was made, takes other attributes, or takes values by their place."""
    config = kind.__struct_config__

    assert (True, False, 0) == (config.frozen, config.gc, kind.__dictoffset__)
    with pytest.raises(TypeError):
        kind("by place")


def test_change_is_refused() -> None:
    """Assignment to a record's field is an error, also with a value that it has already."""
    with pytest.raises(AttributeError):
        SUBSCRIPTION.state = SubscriptionState.ACTIVE  # type: ignore[misc]  # what must fail
    with pytest.raises(AttributeError):
        SUBSCRIPTION.colour = "red"  # type: ignore[attr-defined]  # what must fail


@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(lambda holder: str([holder]), id="str of a list"),
        pytest.param("{!r}".format, id="format"),
        pytest.param(pprint.pformat, id="pprint"),
        pytest.param(pretty_repr, id="rich"),
        pytest.param(traceback_of, id="traceback with locals"),
        pytest.param(lambda holder: repr(KeyError(holder)), id="in an exception"),
        pytest.param(lambda holder: repr(copy.deepcopy(holder)), id="of a copy"),
    ],
)
@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS.keys())
def test_secrets_do_not_show(holder: object, show: Any) -> None:
    """However a record with secrets is shown, they read `***`, and what is no secret can be read."""
    shown = show(holder)

    assert "hush" not in shown
    assert "'***'" in shown


@pytest.mark.parametrize("holder", [HOLDERS[name] for name in HOLDERS if name != "secret"])
def test_text_of_a_record_hides_them_too(holder: object) -> None:
    """A record in the middle of a sentence shows no secret either."""
    assert "hush" not in f"the {holder} and {holder!s}"


def test_secret_is_its_text_where_it_is_used() -> None:
    """Signing, sending and comparing see the text itself."""
    secret = Secret("whsec_ü")

    assert "whsec_ü" == secret
    assert "whsec_ü".encode() == secret.encode()
    assert hash("whsec_ü") == hash(secret)
    assert "Bearer whsec_ü" == f"Bearer {secret}"
    with pytest.raises(AttributeError):
        secret.note = "x"  # type: ignore[attr-defined]  # slots: nothing hangs on to a secret


def test_secrets_are_not_written_by_accident() -> None:
    """A record with secrets becomes JSON only where somebody says how a secret is written."""
    with pytest.raises(TypeError, match="type Secret is unsupported"):
        msgspec.json.encode(SUBSCRIPTION.secrets)


def test_error_codes_are_those_of_the_contract() -> None:
    """Every documented code exists, no other does, and a code is spelled like its name."""
    documented = """
        timeout_connect timeout_response timeout_send connect_refused reset disconnected dns_nxdomain dns_temporary
        tls_expired tls_hostname tls_untrusted tls_protocol blocked_address invalid_url http_status redirect_not_followed
        malformed_response response_header_too_large too_many_informational auth_failed local_network local_resources
        internal_error tls_not_yet_valid dns_no_address proxy_error self_connection
    """

    assert sorted(documented.split()) == sorted(str(code) for code in ErrorCode)
    assert all(code.name.lower() == code.value for code in ErrorCode)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DeliveryState, ["pending", "delivered", "failed", "cancelled", "held"]),
        (SubscriptionState, ["active", "disabled"]),
        (DisabledReason, ["manual", "failures", "gone"]),
        (WhileDisabled, ["hold", "skip"]),
        (Trigger, ["auto", "manual", "replay", "test"]),
    ],
)
def test_words_are_those_of_the_contract(kind: Any, values: list[str]) -> None:
    """What the store and the API hold are the contract's own words."""
    assert values == [str(each) for each in kind]


def test_what_goes_first_is_smaller() -> None:
    """Priorities and ranks sort in the order in which they are served; the store keeps their numbers."""
    assert [Priority.HIGH, Priority.NORMAL, Priority.LOW] == sorted(Priority)
    assert [0, 1, 2] == [int(each) for each in Priority]
    assert [Rank.TRUSTED, Rank.UNTRIED, Rank.FAILING] == sorted(Rank)


def test_outcomes_are_five() -> None:
    """An attempt ends in one of five ways, of which only the accepted one has no error."""
    endings = get_args(Outcome)

    assert ["Accepted", "Refused", "Unreachable", "Interrupted", "Broken"] == [kind.__name__ for kind in endings]
    assert ["Accepted"] == [kind.__name__ for kind in endings if "error" not in kind.__struct_fields__]


@pytest.mark.parametrize(
    ("success", "status", "expected"),
    [
        pytest.param(None, 199, False, id="below 2xx"),
        pytest.param(None, 200, True, id="first of 2xx"),
        pytest.param(None, 204, True, id="204"),
        pytest.param(None, 299, True, id="last of 2xx"),
        pytest.param(None, 300, False, id="above 2xx"),
        pytest.param({200}, 200, True, id="the one named"),
        pytest.param({200}, 204, False, id="not named"),
        pytest.param({404}, 404, True, id="named, whatever it is"),
        pytest.param(set(), 200, False, id="none named"),
    ],
)
def test_success_is_2xx_or_what_is_named(success: set[int] | None, status: int, expected: bool) -> None:
    """Without a list every 2xx delivers; with one, exactly its codes do."""
    rules = Rules(success=None if success is None else frozenset(success))

    assert expected is rules.succeeds(status)


def test_headers_of_a_response_are_found_in_any_case() -> None:
    """All values of a header are found in their order, however the endpoint wrote its name."""
    response = Response(
        status=503, headers=(("Retry-After", "5"), ("Server", "x"), ("retry-AFTER", "7")), body=b"", truncated=False
    )

    assert ["5", "7"] == response.header("retry-after")
    assert [] == response.header("location")


def test_rules_of_a_profile_that_names_none() -> None:
    """Without rules of its own a profile has 15 s and 2xx, and neither retries, obeys, breaks nor disables."""
    assert Rules() == Rules(
        success=None,
        timeout=15_000,
        retry_schedule=(),
        jitter=0.0,
        gone=frozenset(),
        throttle=frozenset(),
        retry_after=frozenset(),
        breaker=False,
        disable_after_failures=None,
        disable_after=None,
        failed_label=None,
    )


def test_subscription_has_the_defaults_of_the_contract() -> None:
    """What a user does not set is as documented."""
    plain = Subscription(
        seq=1, id="sub_1", tenant="t", url="u", event_types=("*",), profile="standard", created_at=0, updated_at=0
    )

    assert (8, WhileDisabled.HOLD, SubscriptionState.ACTIVE) == (plain.max_concurrency, plain.while_disabled, plain.state)
    assert ({}, 1, ()) == (plain.metadata, plain.version, plain.secrets)


def test_error_of_an_attempt_is_a_code_and_words() -> None:
    """A code is a text like any other for whoever prints it."""
    error = AttemptError(code=ErrorCode.TLS_EXPIRED, detail="the certificate ended on 2026-01-01")

    assert "tls_expired" == f"{error.code}"
