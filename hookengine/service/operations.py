"""What all operations share: who may do what, for whom, and what they work on."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from math import isfinite
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Raw, Struct

from hookengine.access import Scope
from hookengine.errors import Forbidden, Malformed, Stopping, StorageUnavailable, SubscriptionNotFound
from hookengine.inputs import DEFAULT_TENANT
from hookengine.jsontext import check_json
from hookengine.matching import OURS
from hookengine.store import Key

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hookengine.access import Principal
    from hookengine.clock import Clock
    from hookengine.config import Config
    from hookengine.metrics import Metrics
    from hookengine.models import Subscription
    from hookengine.netguard import Policy
    from hookengine.observers import Waiters
    from hookengine.sender import Sender
    from hookengine.store import Store
    from hookengine.stream import Ring
    from hookengine.validation import Draft, Problems


_TEXTS = (bytes, bytearray, memoryview)


def json_text(value: object) -> Raw:
    """The JSON text of a Python value: bytes are one, all else is printed. Raises Malformed for what is none."""
    try:
        text = bytes(value) if isinstance(value, _TEXTS) else orjson.dumps(value, _members, orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError as error:  # orjson's, with the reason
        raise Malformed(f"the value cannot be printed as JSON: {error}", code="invalid_json") from error
    if b"null" in text and not _is_finite(value):  # orjson prints what is no number as null
        raise Malformed("the value cannot be printed as JSON: NaN and infinities are no numbers there", code="invalid_json")
    check_json(text)
    return Raw(text)


def _is_finite(value: object) -> bool:
    match value:
        case float():
            return isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list() | tuple():
            return all(map(_is_finite, value))
        case Enum():
            return _is_finite(value.value)
        case _ if is_dataclass(value):
            return all(map(_is_finite, _members(value).values()))
        case _:
            return True


def _members(value: object) -> dict[str, Any]:
    """
    What a dataclass is printed as.

    Its fields that are set, and what else an instance was given. By itself orjson leaves out the fields of a parent with
    slots, and crashes, with the interpreter, over a slot that is not set.
    """
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError
    found = {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}
    found |= getattr(value, "__dict__", {})
    return {name: member for name, member in found.items() if not name.startswith("_")}


class RequestKey(Struct, frozen=True, kw_only=True):
    """An Idempotency-Key as a request brings it; `digest` is of the request's bytes."""

    method: str
    path: str
    key: str
    digest: bytes


def request_digest(body: bytes) -> bytes:
    """What tells two requests with the same Idempotency-Key apart."""
    return sha256(body).digest()


class Operations:
    """
    The parts that operations work on, and the checks that each begins with.

    Inputs of operations are mappings of member names to values, as JSON has them; every mistake in them is raised at once, as
    Invalid.
    """

    def __init__(
        self,
        store: Store,
        *,
        sender: Sender,
        waiters: Waiters,
        metrics: Metrics,
        ring: Ring,
        clock: Clock,
        config: Config,
        policy: Policy,
        resume_at: Callable[[int], int],
    ) -> None:
        self._store = store
        self._sender = sender
        self._metrics = metrics
        self._ring = ring
        self._waiters = waiters
        self._clock = clock
        self._config = config
        self._policy = policy
        self._resume_at = resume_at  # before which nothing of a subscription (its seq) may go
        self._profiles = config.profiles
        self._refusing = False
        self._keys_in_use: dict[tuple[str, ...], tuple[asyncio.Lock, int]] = {}  # with how many use each, of saves with a test
        # Under way, by tenant and subscription, or URL where there is none yet.
        self._tests: Counter[tuple[str, int | str]] = Counter()

    @property
    def unready(self) -> str | None:
        """The code of the error that whoever publishes now gets; None if that is likely to be accepted."""
        if self._refusing:
            return Stopping.code
        return None if self._store.writer.has_room else StorageUnavailable.code

    def refuse(self) -> None:
        """Take no events and changes any more; questions are still answered."""
        self._refusing = True

    def _require(self, by: Principal, scope: Scope, *, changing: bool = False) -> None:
        by.require(scope)
        if by.tenant is not None and scope is Scope.ADMIN:
            raise Forbidden(f"this token is bound to the tenant {by.tenant}")
        if changing and self._refusing:
            raise Stopping

    def _tenant(self, by: Principal, asked: str | None) -> str | None:
        """Whose rows are read: a bound token's tenant, whatever is asked for."""
        if by.tenant is not None and asked not in (None, by.tenant):
            raise Forbidden(f"this token is bound to the tenant {by.tenant}")
        return by.tenant or asked

    def _subscription(self, by: Principal, id: str) -> Subscription:
        subscription = self._store.memory.index.by_id(id)
        if subscription is None or by.tenant not in (None, subscription.tenant):
            raise SubscriptionNotFound
        return subscription

    def _check_ours(self, by: Principal, tenant: str) -> None:
        """Raise Forbidden where what *by* would have or change is of the engine's own tenant, and not for everybody."""
        if tenant == OURS and not by.may_have_ours:
            raise Forbidden(f"what the tenant '{OURS}' has is for unbound tokens with the scope {Scope.ADMIN}")

    def _own_tenant(self, by: Principal, given: str | None) -> str:
        return self._tenant(by, given) or DEFAULT_TENANT

    def _check_chosen(self, problems: Problems, draft: Draft[Any], tenant: str, at: str) -> None:
        for position, id_ in draft.items("subscriptions"):
            subscription = self._store.memory.index.by_id(id_)
            if subscription is None or subscription.tenant != tenant:
                problems.add(
                    f"{at}/subscriptions/{position}", "unknown_subscription", "no subscription of the tenant has this id"
                )

    def _key(self, key: RequestKey, tenant: str) -> Key:
        return Key(tenant=tenant, method=key.method, path=key.path, key=key.key, digest=key.digest)
