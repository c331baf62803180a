"""
What can be set, declared once: file, environment, flags, `config.example.toml` and `docs/configuration.md` derive from it.

An option is a field of a section. Its type says what is allowed, its Meta what it means. To add one, add a field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import UNSET, Meta, Struct, field
from msgspec.structs import force_setattr, replace

from hookengine import extensions
from hookengine.extensions import Profiles, ProfileTable, SignatureTable
from hookengine.models import Secret
from hookengine.netguard import Policy, never_opened
from hookengine.sources import Option, Sources, invalid
from hookengine.times import Duration, format_duration
from hookengine.validation import Problems
from hookengine.wording import did_you_mean, pointer, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

# The widest networks that have one private owner: 10.0.0.0/8 and fc00::/7.
_WIDEST_IPV4 = 8
_WIDEST_IPV6 = 7


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        if host.startswith("["):
            IPv6Address(host.removeprefix("[").removesuffix("]"))
        elif re.fullmatch(r"[0-9.]+", host):
            IPv4Address(host)
        valid = bool(re.fullmatch(r"\[[^\[\]]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host))
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT such as '127.0.0.1:8700' or '[::1]:8700', got {quoted(text)}")
    return text


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network, address = ip_network(text, strict=False), ip_interface(text).ip
    except ValueError:
        raise ValueError(f"expected a network such as '10.0.0.0/8', got {quoted(text)}") from None
    if network.network_address != address:
        raise ValueError(f"{quoted(text)} is an address in {network}: give {address}, or the network")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("give the IPv4 network itself, not its IPv6-mapped form")
    if network.prefixlen < (_WIDEST_IPV4 if isinstance(network, IPv4Network) else _WIDEST_IPV6):
        raise ValueError(
            f"{network} is wider than any private network and would open this machine to whoever may make a subscription:"
            " name the networks that receivers are in"
        )
    if (closed := never_opened(network)) is not None:
        raise ValueError(f"{network} cannot be opened, because of {closed}: name the networks that receivers are in")
    return network


def _proxy(text: str) -> Secret:
    # The text is not repeated: it may hold a password.
    try:
        url = urlsplit(text)
        valid = url.scheme in {"http", "https"} and url.hostname and url.port != 0 and url.path in {"", "/"}
        valid = valid and ":" not in unquote(url.username or "")  # RFC 7617, section 2
    except ValueError:
        valid = False
    if not valid or not re.fullmatch(r"[!-~]+", text) or "?" in text or "#" in text:
        raise ValueError("expected a URL such as 'http://proxy.internal:3128'")
    return Secret(text)


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP API."""

    listen: Annotated[
        str, Meta(description="Where to listen: `HOST:PORT`. Port 0 takes any free one.", extra={"parse": _listen})
    ] = "127.0.0.1:8700"
    max_body: Annotated[int, Meta(ge=1, le=1 << 30, description="The largest request body, in bytes.")] = 1 << 20
    max_batch_body: Annotated[int, Meta(ge=1, le=1 << 30, description="The largest body of a batch, in bytes.")] = 1 << 24
    events_per_second: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Events that one token may publish in a second, on average; who is faster gets 429. 0: no limit.",
        ),
    ] = 0
    failed_auth_per_minute: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Requests without a valid token that are answered 401 in a minute, of each address; more get 429."
            " 0: no limit.",
        ),
    ] = 300


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The database."""

    synchronous: Annotated[
        Literal["full", "normal"],
        Meta(
            description="`full`: what was accepted survives a loss of power. `normal`: it survives a crash of the process, and"
            " the last moments before a loss of power may be gone."
        ),
    ] = "full"
    retention: Annotated[
        Duration, Meta(description="How long events and deliveries are kept after they are finished. Unfinished work stays.")
    ] = Duration.parse("30d")


class Delivery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sending."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000, description="Attempts at a time, at most.")] = 256
    queue_size: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Deliveries held in memory, at most; the others wait on disk.")
    ] = 10_000
    payload_cache: Annotated[int, Meta(ge=0, le=1 << 40, description="Memory for the payloads of fresh events, in bytes.")] = (
        1 << 25
    )
    drain: Annotated[Duration, Meta(description="How long a stop waits for attempts in flight.")] = Duration.parse("25s")
    default_profile: Annotated[
        str, Meta(description="The profile of subscriptions that name none: one of hookengine's, or of this file.")
    ] = "standard"
    strict_event_types: Annotated[
        bool, Meta(description="Refuse events whose type was not declared, and subscriptions that name one exactly.")
    ] = False

    def __post_init__(self) -> None:
        if self.queue_size < self.concurrency:
            raise ValueError(f"queue_size must be at least concurrency ({self.concurrency}), got {self.queue_size}")


class Security(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where requests may go."""

    allow_http: Annotated[bool, Meta(description="Allow receivers without TLS.")] = False
    allow_networks: Annotated[
        tuple[Annotated[IPv4Network | IPv6Network, Meta(extra={"parse": _network})], ...],
        Meta(
            description='Private networks that receivers may be in, such as `["10.0.0.0/8"]`. Link-local and metadata'
            " addresses stay closed."
        ),
    ] = ()
    allow_ports: Annotated[
        frozenset[Annotated[int, Meta(ge=1, le=65535)]],
        Meta(description="The ports that receivers may have. Empty: all but those that browsers refuse."),
    ] = frozenset()
    proxy: Annotated[
        Secret | None,
        Meta(
            description="A proxy for all requests. It, and not hookengine, then decides which addresses are called.",
            examples=["http://proxy.internal:3128"],
            extra={"parse": _proxy},
        ),
    ] = None

    def policy(self, *, own_addresses: tuple[tuple[str, int], ...] = ()) -> Policy:
        """Which URLs and addresses may be called, by a server at *own_addresses*, where nothing is to go."""
        return Policy(
            allow_http=self.allow_http,
            allow_networks=self.allow_networks,
            allow_ports=self.allow_ports,
            own_addresses=own_addresses,
        )


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The daemon's log, on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="What is logged: this and worse.")] = (
        "info"
    )
    format: Annotated[Literal["console", "json"], Meta(description="Lines for people, or one JSON object a line.")] = "console"


class Dashboard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """There is none yet, and nothing to set; a file may have the table."""


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What tenants on a plan may have."""

    max_subscriptions: Annotated[int, Meta(ge=0, le=1 << 31, description="Subscriptions of a tenant, at most.")] | None = None


_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z", extra={"expected": "a name of letters, digits, _ and -"})]


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Everything that can be set; by itself, the defaults.

    Raises ConfigInvalid, also when made by hand; durations and networks may be given as texts then too, and `profiles` as the
    tables of a file. It holds all profiles then, hookengine's too.
    """

    server: Server = Server()
    store: Store = Store()
    delivery: Delivery = Delivery()
    security: Security = Security()
    log: Log = Log()
    dashboard: Dashboard = Dashboard()
    plans: dict[_Name, Plan] = field(default_factory=dict)
    profiles: Profiles = field(default_factory=Profiles)

    def __post_init__(self) -> None:
        problems = Problems()
        for section, struct in SECTIONS.items():
            given = getattr(self, section)
            raw = msgspec.structs.asdict(given) if isinstance(given, struct) else given
            force_setattr(self, section, problems.convert(struct, raw, pointer(section)).whole)
        profiles = self.profiles
        if not isinstance(profiles, Profiles):
            force_setattr(self, "profiles", extensions.read(problems, profiles, pointer("profiles")))
        if isinstance(self.delivery, Delivery):
            _check_default_profile(problems, self.delivery.default_profile, self.profiles, profiles)
        if problems.mistakes:
            raise invalid([("Config", mistake) for mistake in problems.mistakes])

    @classmethod
    def load(
        cls,
        path: str | PathLike[str] | None = None,
        *,
        environ: Mapping[str, str] = _NOTHING,
        flags: Mapping[str, Any] = _NOTHING,
    ) -> Config:
        """
        The configuration of a TOML file (None: of no file), then *environ*, then *flags*, the later one winning.

        *flags* are by the option's name, such as `server.listen`; None is a flag that was not given. Raises ConfigInvalid with
        every mistake: its `detail` is a line for each, and each has `parameter` (where it is, and the option's name).
        """
        read = Sources.read(None if path is None else Path(path), environ=environ, flags=flags, options=OPTIONS)
        problems = Problems()
        draft = problems.convert(cls, _with_profiles(problems, read.tables))
        mistakes = read.mistakes + [(read.place_of(mistake), mistake) for mistake in problems.mistakes]
        if mistakes:
            raise invalid(mistakes)
        return problems.require(draft)


def _with_profiles(problems: Problems, tables: Mapping[str, Any]) -> dict[str, Any]:
    """*tables* with profiles made of theirs, and without a default profile that is none of them: both are judged here."""
    given = tables.get("profiles", {})
    profiles = extensions.read(problems, given, pointer("profiles"))
    delivery = tables.get("delivery")
    if isinstance(delivery, dict) and isinstance(name := delivery.get("default_profile"), str) and name not in profiles:
        _check_default_profile(problems, name, profiles, given)
        delivery = delivery | {"default_profile": UNSET}
    return {**tables, "profiles": profiles, "delivery": UNSET if delivery is None else delivery}


def _check_default_profile(problems: Problems, name: str, profiles: Profiles, given: Any) -> None:
    """Add a mistake where no profile has this *name*; those that are *given* and wrong are named already."""
    if name not in profiles and not (isinstance(given, Mapping) and name in given):
        known = ", ".join(map(quoted, profiles))
        detail = f"expected one of {known}{did_you_mean(name, profiles)}"
        problems.add(pointer("delivery", "default_profile"), "unknown_profile", detail)


SECTIONS: dict[str, type[Struct]] = {
    section.name: section.type
    for section in msgspec.structs.fields(Config)
    if isinstance(section.type, type) and issubclass(section.type, Struct)
}


def written(value: Any) -> str:
    """*value* as TOML has it; a secret as `"***"`."""
    match value:
        case Secret():
            return '"***"'
        case Duration():
            return f'"{format_duration(value)}"'
        case bool() | int() | float():
            return str(value).lower()
        case Mapping():
            return f"{{ {', '.join(f'{name} = {written(each)}' for name, each in value.items())} }}"
        case list() | tuple() | frozenset():
            return f"[{', '.join(map(written, sorted(value) if isinstance(value, frozenset) else value))}]"
        case _:
            return json.dumps(str(value), ensure_ascii=False)


def _options() -> Iterator[Option]:
    for section, struct in SECTIONS.items():
        for each in msgspec.structs.fields(struct):
            meta = next(meta for meta in each.type.__metadata__ if isinstance(meta, Meta))
            yield Option(
                section=section,
                key=each.name,
                type=each.type.__origin__,
                default=each.default,
                help=meta.description or "",
                allowed=_allowed(each.type.__origin__, meta),
                example=meta.examples[0] if meta.examples else None,
            )


def _allowed(hint: Any, meta: Meta) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f"`{written(choice)}`" for choice in get_args(hint))
    if meta.ge is not None:
        return f"{meta.ge} to {meta.le}"
    return {bool: "`true`, `false`", Duration: "a duration", str: "a text"}.get(hint, "")


OPTIONS = tuple(_options())


def for_development(config: Config) -> Config:
    """*config*, with receivers on http and on loopback allowed."""
    networks = tuple(dict.fromkeys((*config.security.allow_networks, *_LOOPBACK)))
    return replace(config, security=replace(config.security, allow_http=True, allow_networks=networks))


def sources(path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, Any]) -> dict[str, str]:
    """Where the value of each option is from: `default`, `config.toml:12`, a variable's name, or `flag`."""
    places = Sources.read(path, environ=environ, flags=flags, options=OPTIONS).places
    return {option.name: places.get((option.section, option.key), "default") for option in OPTIONS}


def example() -> str:
    """`config.example.toml`."""
    lines = [
        "# Every option of hookengine, with its default. Nothing here needs to be set.",
        "# A flag wins over the environment (HOOKENGINE_<SECTION>_<KEY>), which wins over this file.",
    ]
    for section, options in groupby(OPTIONS, key=lambda option: option.section):
        lines += ["", f"# {SECTIONS[section].__doc__}", f"[{section}]"]
        for option in options:
            lines += ["", *(f"# {line}" for line in wrap(option.help.replace("`", ""), 98))]
            setting = f"{option.key} = {written(option.default)}"
            lines.append(setting if option.default is not None else f"# {option.key} = {written(option.example)}")
    return "\n".join([*lines, *_example_tables()]) + "\n"


def _example_tables() -> list[str]:
    """What `config.example.toml` says of tables with names, each with every key."""
    return [
        "",
        "# Plans limit what a tenant may have; PUT /v1/tenants/<tenant> puts a tenant on one.",
        "# [plans.free]",
        "# max_subscriptions = 3",
        "",
        "# Profiles of your own: each extends one that there is, and has its own values for any of these keys.",
        "# [profiles.acme]",
        *(f"# {key} = {example}" for key, _, example, _ in _keys(ProfileTable) if example),
        "#",
        "# Its signatures, in place of those of what it extends.",
        "# [[profiles.acme.signatures]]",
        *(f"# {key} = {example}" for key, _, example, _ in _keys(SignatureTable) if example and key not in _UNUSUAL),
    ]


_UNUSUAL = {"public_prefix"}  # keys of a signature that fit no usual one


def _keys(table: type[Struct]) -> Iterator[tuple[str, str, str, str]]:
    """The keys of a table with a name: what is there without it, an example, and the meaning."""
    for each in msgspec.structs.fields(table):
        meta = next(meta for meta in each.type.__metadata__ if isinstance(meta, Meta) and meta.description)
        default = "" if each.required or each.default is None else written(each.default)
        yield each.name, default, written(meta.examples[0]) if meta.examples else default, meta.description or ""


def reference() -> str:
    """`docs/configuration.md`."""
    lines = [
        "# Configuration",
        "",
        "hookengine runs without any. What is set is taken from the first of these that has it: flags, the environment,",
        "the TOML file named by `--config`, the defaults. `hookengine check-config FILE` names every mistake, or else the",
        "value of each option of these sections and where it comes from (`security.proxy`, which may hold a password, reads",
        "`***`); it checks the tables with names too, and does not show them.",
        "",
        "A variable that is spelt nearly as one of these, or as `HOOKENGINE_ENCRYPTION_KEY`, is a mistake. Others that begin",
        "with `HOOKENGINE_` are left alone, since they may be somebody else's: Kubernetes sets some for a service that is",
        "called as we are.",
        "",
        "Durations are `<whole number><ms|s|m|h|d>`, such as `500ms` or `30d`. In the environment, commas separate the",
        "elements of a list.",
    ]
    for section, options in groupby(OPTIONS, key=lambda option: option.section):
        lines += ["", f"## [{section}]", "", SECTIONS[section].__doc__ or "", ""]
        lines += ["| option | environment | default | allowed | meaning |", "|---|---|---|---|---|"]
        for option in options:
            default = "" if option.default is None else f"`{written(option.default)}`"
            lines.append(f"| `{option.key}` | `{option.variable}` | {default} | {option.allowed} | {option.help} |")
    return "\n".join([*lines, *_reference_tables()]) + "\n"


def _reference_tables() -> list[str]:
    """What `docs/configuration.md` says of tables with names."""
    return [
        "",
        "## Tables with names",
        "",
        "These come from the file only.",
        "",
        "### [plans.NAME]",
        "",
        "A plan for tenants (`PUT /v1/tenants/<tenant>`). `max_subscriptions`: how many each may have.",
        "",
        "### [profiles.NAME]",
        "",
        "A profile of your own, by which subscriptions name it. [profiles.md](profiles.md) tells what hookengine's are. What",
        "a table does not say is as in the profile that it extends; a list or a table replaces the whole of what that has.",
        "",
        "| key | example | meaning |",
        "|---|---|---|",
        *(
            f"| `{key}` | {f'`{example}`' if example else ''} | {meaning} |"
            for key, _, example, meaning in _keys(ProfileTable)
        ),
        "",
        "### [[profiles.NAME.signatures]]",
        "",
        "Each such table is a signature that requests carry.",
        "",
        "| key | default | example | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{key}` | {f'`{default}`' if default else ''} | `{example}` | {meaning} |"
            for key, default, example, meaning in _keys(SignatureTable)
        ),
    ]
