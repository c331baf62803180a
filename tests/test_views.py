"""What users see: exact times, the contract's names, and no secret in a repr."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Struct

from hookengine import views
from hookengine.times import format_time
from hookengine.views import (
    Attempt,
    Delivery,
    EventType,
    OldSecret,
    Page,
    Subscription,
    SubscriptionSecret,
    Tenant,
    TenantSecret,
    Token,
    moment,
    optional_moment,
)

THEN = datetime(2026, 11, 22, 2, 10, tzinfo=UTC)
LAST_MS = 253_370_764_799_999  # of the year 9998
VIEWS = [kind for kind in vars(views).values() if isinstance(kind, type) and issubclass(kind, Struct) and kind is not Struct]

SUBSCRIPTION = Subscription(
    id="sub_1",
    tenant="acme",
    name=None,
    url="https://example.com/hook",
    event_types=["*"],
    profile="standard",
    method=None,
    headers={"x-api-key": "***"},
    auth=None,
    timeout=None,
    retry_schedule=None,
    disable_after_failures=None,
    while_disabled="hold",
    max_concurrency=8,
    rate_limit=None,
    ordering="none",
    batch=None,
    target_id=0,
    key_values={},
    metadata={},
    state="active",
    disabled_reason=None,
    consecutive_failures=0,
    last_success_at=None,
    last_failure_at=None,
    created_at=THEN,
    updated_at=THEN,
    version=1,
)
DELIVERY = Delivery(
    id="dlv_1",
    event="evt_1",
    subscription="sub_1",
    tenant="acme",
    type="order.created",
    state="pending",
    attempt_count=0,
    next_attempt_at=THEN,
    created_at=THEN,
    finished_at=None,
)
TOKEN = Token(user="ann", scopes=["admin"], tenant=None, created_at=THEN, expires_at=None, last_used_at=None)
ATTEMPT = Attempt(number=1, at=THEN, outcome="accepted", duration_ms=12, trigger="auto")


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        pytest.param(0, datetime(1970, 1, 1, tzinfo=UTC), id="epoch"),
        pytest.param(1, datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC), id="one"),
        pytest.param(1_795_313_400_123, datetime(2026, 11, 22, 2, 10, 0, 123_000, tzinfo=UTC), id="now"),
        pytest.param(LAST_MS, datetime(9998, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), id="last"),
    ],
)
def test_moments_are_aware_and_in_utc(ms: int, expected: datetime) -> None:
    """Milliseconds since the epoch become a datetime that knows its zone."""
    assert (expected, UTC) == (moment(ms), moment(ms).tzinfo)


@given(st.integers(0, LAST_MS))
def test_moments_are_exact(ms: int) -> None:
    """No millisecond is lost in any year that an event may name."""
    assert format_time(ms) == moment(ms).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
    assert 0 == moment(ms).microsecond % 1000


def test_moment_that_is_missing_stays_missing() -> None:
    """None is no time, and 0 is one."""
    assert (None, moment(0), moment(5)) == (optional_moment(None), optional_moment(0), optional_moment(5))


@pytest.mark.parametrize("kind", VIEWS)
def test_views_are_frozen_and_keyword_only(kind: type[Struct]) -> None:
    """What a user was given does not change behind his back."""
    assert kind.__struct_config__.frozen
    with pytest.raises(TypeError):
        kind("by place")


@pytest.mark.parametrize(
    ("view", "names"),
    [
        pytest.param(
            SUBSCRIPTION,
            "id tenant name url event_types profile method headers auth timeout retry_schedule disable_after_failures "
            "while_disabled max_concurrency rate_limit ordering batch target_id key_values metadata state disabled_reason "
            "consecutive_failures "
            "last_success_at last_failure_at created_at updated_at version",
            id="subscription",
        ),
        pytest.param(
            DELIVERY,
            "id event subscription tenant type state attempt_count next_attempt_at created_at finished_at",
            id="delivery",
        ),
        pytest.param(ATTEMPT, "number at outcome duration_ms trigger", id="attempt"),
        pytest.param(SubscriptionSecret(secret=None, previous=[]), "secret previous", id="secret"),
        pytest.param(Page(data=[1], next_cursor=None), "data next_cursor", id="page"),
        pytest.param(TOKEN, "user scopes tenant created_at expires_at last_used_at", id="token"),
        pytest.param(TenantSecret(secret="s", previous=[]), "secret previous", id="tenant's secret"),
        pytest.param(
            Tenant(tenant="a", plan=None, subscriptions=0, max_subscriptions=None, created_at=THEN, updated_at=THEN),
            "tenant plan subscriptions max_subscriptions created_at updated_at",
            id="tenant",
        ),
        pytest.param(
            EventType(type="a", description="", example=None, deprecated=False, created_at=THEN, updated_at=THEN),
            "type description example deprecated created_at updated_at",
            id="event type",
        ),
    ],
)
def test_names_are_those_of_the_contract(view: Struct, names: str) -> None:
    """The members that are always there have the documented names, and optional ones are absent until they have a value."""
    assert names.split() == list(msgspec.json.decode(msgspec.json.encode(view)))


@pytest.mark.parametrize(
    ("view", "name", "value"),
    [
        pytest.param(SUBSCRIPTION, "secret", "whsec_hush", id="new secret"),
        pytest.param(SUBSCRIPTION, "secret", None, id="profile without a secret"),
        pytest.param(DELIVERY, "failed_label", "expired", id="label"),
        pytest.param(DELIVERY, "attempts", [], id="no attempts yet"),
        pytest.param(ATTEMPT, "status_code", 204, id="status"),
        pytest.param(SubscriptionSecret(secret="s", previous=[]), "public_key", "whpk_x", id="public key"),
        pytest.param(TOKEN, "token", "hke_hush", id="new token"),
    ],
)
def test_optional_members_show_once_they_have_a_value(view: Struct, name: str, value: object) -> None:
    """A member that is set is shown, None and an empty list included where they say something."""
    shown = msgspec.json.decode(msgspec.json.encode(msgspec.structs.replace(view, **{name: value})))

    assert value == shown[name]


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(msgspec.structs.replace(SUBSCRIPTION, secret="whsec_hush"), id="subscription"),
        pytest.param(OldSecret(secret="whsec_hush", expires_at=THEN), id="old secret"),
        pytest.param(
            SubscriptionSecret(secret="whsec_hush", previous=[OldSecret(secret="whsec_hush2", expires_at=THEN)]), id="secrets"
        ),
        pytest.param(msgspec.structs.replace(TOKEN, token="hke_hush"), id="token"),
        pytest.param(TenantSecret(secret="hush", previous=[]), id="tenant's secret"),
        pytest.param(
            Page(data=[msgspec.structs.replace(SUBSCRIPTION, secret="whsec_hush")], next_cursor=None), id="page of them"
        ),
    ],
)
def test_secrets_are_not_in_a_repr(view: Struct) -> None:
    """A view that carries a secret to the user does not carry it into a log or a traceback."""
    assert "hush" not in f"{view!r} {view} {[view]}"


def test_repr_of_a_subscription_says_which_and_how_it_is() -> None:
    """In a prompt a subscription fits on a line."""
    expected = "Subscription(id='sub_1', tenant='acme', url='https://example.com/hook', state='active')"

    assert expected == repr(SUBSCRIPTION)
    assert UNSET is SUBSCRIPTION.secret


def test_repr_of_secrets_says_what_there_is() -> None:
    """The number of old secrets and their ends can be seen, the secrets cannot."""
    old = OldSecret(secret="whsec_hush", expires_at=THEN)

    assert f"OldSecret(expires_at={THEN!r})" == repr(old)
    assert "SubscriptionSecret(previous=1)" == repr(SubscriptionSecret(secret="whsec_hush", previous=[old]))
