"""Signature schemes as data, and the table of those of all profiles."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from math import ceil
from string import ascii_letters, digits
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = tuple[str, str, str, str, str]  # as VARIABLES names them
    Fill = Callable[..., str]  # str.format of a template, called with values

Algorithm = Literal["hmac-sha256", "hmac-sha1", "hmac-sha512", "ed25519"]
Encoding = Literal["hex", "base64"]
KeyForm = Literal["utf8", "base64"]
Moment = Literal["attempt", "event"]

_SIGNATURE_BYTES = {"hmac-sha256": 32, "hmac-sha1": 20, "hmac-sha512": 64, "ed25519": 64}

VARIABLES = ("id", "attempt", "event", "method", "url", "signatures")
SYMMETRIC, PRIVATE, PUBLIC = "whsec_", "whsk_", "whpk_"  # how secrets and public keys begin: Standard Webhooks 1.0.0


class Item(NamedTuple):
    """What stands around a variable in one item of a header's value."""

    head: str
    tail: str

    def find(self, items: list[str]) -> list[str]:
        """What *items* have in the variable's place; those of another form are skipped."""
        head, tail = self
        fitting = [each for each in items if each.startswith(head) and each.endswith(tail)]
        return [each[len(head) : len(each) - len(tail)] for each in fitting if len(each) >= len(head) + len(tail)]


class Templates(NamedTuple):
    """Those of a scheme, compiled: `signed` is cut where the body goes, `value` takes the joined signatures last."""

    message: Callable[[Values, bytes], bytes]  # the bytes that are signed
    value: Fill
    bare: bool
    signature: Item
    timestamp: Item | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """
    One way of signing a request.

    `signed` is what the signature covers, of `{id} {timestamp} {method} {url} {body}`. `value` is what `header` holds: items
    with `separator` between them, one of them with `{signature}`, another maybe with `{timestamp}`. With `several` the
    signature's item stands once for each secret; otherwise the newest secret signs alone. Raises ValueError where the
    fields do not fit together.
    """

    header: str
    value: str
    signed: str
    algorithm: Algorithm = "hmac-sha256"
    encoding: Encoding = "hex"
    key: KeyForm = "utf8"  # the secret's characters, or what follows `prefix`, decoded
    prefix: str = ""  # of the secrets that this scheme takes
    public_prefix: str | None = None  # of the public keys that verify what an Ed25519 secret signed
    timestamp: Moment = "attempt"
    separator: str = ""
    several: bool = False
    id_header: str | None = None
    timestamp_header: str | None = None
    templates: Templates = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, known in (("algorithm", Algorithm), ("encoding", Encoding), ("key", KeyForm), ("timestamp", Moment)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is one of {', '.join(get_args(known))}")
        if self.algorithm == "ed25519" and self.key != "base64":
            raise ValueError("the key of ed25519 is base64")
        if self.several and not self.separator:
            raise ValueError("several signatures in one header need a separator")
        object.__setattr__(self, "templates", _compile(self))
        object.__setattr__(self, "_hash", hash((self.header, self.value, self.signed, self.prefix)))

    def __hash__(self) -> int:
        return self._hash  # made once, because every signing looks its schemes up

    def takes(self, secret: str) -> bool:
        """Whether a secret of this form signs with this scheme."""
        return secret.startswith(self.prefix)

    def takes_public(self, key: str) -> bool:
        """Whether a public key of this form verifies what was signed with this scheme."""
        return self.public_prefix is not None and key.startswith(self.public_prefix)

    def fits(self, secret: str) -> bool:
        """Whether a secret or public key of this form belongs to this scheme."""
        return self.takes(secret) or self.takes_public(secret)


def _compile(scheme: Scheme) -> Templates:
    signed = _variables(scheme.signed, {"id", "timestamp", "method", "url", "body"})
    if signed.count("body") != 1:
        raise ValueError(f"signed has {{body}} once: {scheme.signed}")
    if "id" in signed and scheme.id_header is None:
        raise ValueError("the id is signed, but id_header does not say which header carries it")
    items: dict[str, Item] = {}
    for item in items_of(scheme, scheme.value):
        for name in _variables(item, {"signature", "timestamp"}):
            head, _, tail = item.partition(f"{{{name}}}")
            if name in items or "{" in head + tail:
                raise ValueError(f"value has each variable once, in an item of its own: {scheme.value}")
            items[name] = Item(head, tail)
    if "signature" not in items:
        raise ValueError(f"value has {{signature}}: {scheme.value}")
    if scheme.value != scheme.value.strip(" \t"):
        raise ValueError("value begins or ends with a blank, which is no part of a header's value (RFC 9110, 5.5)")
    characters = _characters(scheme)
    if "timestamp" in items and (
        len(items["timestamp"].find(items_of(scheme, scheme.value))) > 1
        or _may_pass(items["signature"], characters["signature"], items["timestamp"])
    ):
        raise ValueError(f"in value, nothing tells the timestamp from what is beside it: {scheme.value}")
    for name, found in items.items():
        if scheme.separator and _may_be_cut(found, characters[name], scheme.separator):
            raise ValueError(f"the separator may occur in the item of {{{name}}} itself: {scheme.separator}")
    if "timestamp" in signed and scheme.timestamp_header is None and "timestamp" not in items:
        raise ValueError("the timestamp is signed, but neither timestamp_header nor value says where it is")
    before, after = scheme.signed.split("{body}")
    value = scheme.value.replace("{signature}".join(items["signature"]), "{signatures}")
    return Templates(
        message=_message(_fill(before, scheme), _fill(after, scheme) if after else None),
        value=_fill(value, scheme),
        bare=value == "{signatures}",
        signature=items["signature"],
        timestamp=items.get("timestamp"),
    )


def _variables(template: str, known: set[str]) -> list[str]:
    names = re.findall(r"\{([a-z]+)\}", template)
    if not known.issuperset(names) or not len(names) == template.count("{") == template.count("}"):
        raise ValueError(f"a template has no braces but those of {', '.join(sorted(known))}: {template}")
    return names


def _characters(scheme: Scheme) -> dict[str, list[str]]:
    """What each place of a variable in `value` may hold."""
    size = _SIGNATURE_BYTES[scheme.algorithm]
    if scheme.encoding == "hex":
        signature = ["0123456789abcdef"] * (2 * size)
    else:
        signature = [ascii_letters + digits + "+/"] * ceil(size * 4 / 3) + ["="] * (-size % 3)
    return {"timestamp": [digits] * 10, "signature": signature}


def _may_be_cut(item: Item, variable: list[str], separator: str) -> bool:
    """Whether *separator* may begin before the one that ends *item*."""
    places = [*item.head, *variable, *item.tail, *separator]
    return any(_may_begin(places[at:], separator) for at in range(len(places) - len(separator)))


def _may_pass(item: Item, variable: list[str], other: Item) -> bool:
    """Whether *item* may be taken for *other*."""
    places = [*item.head, *variable, *item.tail]
    return _may_begin(places, other.head) and _may_begin(places[::-1], other.tail[::-1])


def _may_begin(places: list[str], text: str) -> bool:
    return len(text) <= len(places) and all(each in place for each, place in zip(text, places, strict=False))


def _message(before: Fill, after: Fill | None) -> Callable[[Values, bytes], bytes]:
    # Servers hand on header bytes that are no UTF-8 as surrogates; no two texts may become the same bytes.
    if after is None:
        return lambda values, body: before(*values).encode("utf-8", "surrogatepass") + body
    return lambda values, body: (
        before(*values).encode("utf-8", "surrogatepass") + body + after(*values).encode("utf-8", "surrogatepass")
    )


def _fill(template: str, scheme: Scheme) -> Fill:
    places = {name: f"{{{place}}}" for place, name in enumerate(VARIABLES)}
    places["timestamp"] = places[scheme.timestamp]
    return re.sub(r"\{([a-z]+)\}", lambda found: places[found[1]], template).format


def items_of(scheme: Scheme, value: str) -> list[str]:
    """The items of a header's value."""
    return value.split(scheme.separator) if scheme.separator else [value]


def _standard_webhooks(brand: str) -> tuple[Scheme, ...]:
    symmetric = Scheme(
        header=f"{brand}-signature",
        value="v1,{signature}",
        signed="{id}.{timestamp}.{body}",
        encoding="base64",
        key="base64",
        prefix=SYMMETRIC,
        separator=" ",
        several=True,
        id_header=f"{brand}-id",
        timestamp_header=f"{brand}-timestamp",
    )
    asymmetric = replace(symmetric, value="v1a,{signature}", algorithm="ed25519", prefix=PRIVATE, public_prefix=PUBLIC)
    return symmetric, asymmetric


SCHEMES: Mapping[str, tuple[Scheme, ...]] = MappingProxyType(
    {
        "standard": _standard_webhooks("webhook"),
        "svix": _standard_webhooks("svix"),
        "clearfeed": (
            Scheme(
                header="X-CF-Signature",
                value="{signature}",
                signed="{method}{url}{body}{timestamp}",
                timestamp="event",
                timestamp_header="X-CF-Timestamp",
            ),
        ),
        "clarife": (
            Scheme(header="X-Clarife-Signature", value="t={timestamp},v1={signature}", signed="{body}", separator=","),
        ),
        "clevertap": (),
        "github": (Scheme(header="X-Hub-Signature-256", value="sha256={signature}", signed="{body}"),),
        "stripe": (
            Scheme(
                header="Stripe-Signature",
                value="t={timestamp},v1={signature}",
                signed="{timestamp}.{body}",
                separator=",",
                several=True,
            ),
        ),
        "slack": (
            Scheme(
                header="X-Slack-Signature",
                value="v0={signature}",
                signed="v0:{timestamp}:{body}",
                timestamp_header="X-Slack-Request-Timestamp",
            ),
        ),
        "shopify": (Scheme(header="X-Shopify-Hmac-Sha256", value="{signature}", signed="{body}", encoding="base64"),),
    }
)
