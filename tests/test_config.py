"""Every option is declared once; file, environment, flags and documents derive from it."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hookengine.config import (
    OPTIONS,
    Config,
    Delivery,
    Plan,
    Security,
    Server,
    Store,
    example,
    for_development,
    reference,
    sources,
    written,
)
from hookengine.errors import ConfigInvalid
from hookengine.extensions import ProfileTable, SignatureTable
from hookengine.models import Secret
from hookengine.profiles import PROFILES
from hookengine.times import Duration

ROOT = Path(__file__).parent.parent
DAY = 86_400_000  # ms


def load(**flags: Any) -> Config:
    """A configuration of flags alone, `section__key=value`."""
    return Config.load(None, environ={}, flags={name.replace("__", "."): value for name, value in flags.items()})


def from_toml(tmp_path: Path, text: str, **environ: str) -> Config:
    """A configuration of a file and the environment."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return Config.load(path, environ=environ, flags={})


def refused(name: str, value: Any) -> str:
    """The sentence about the one option that is wrong."""
    with pytest.raises(ConfigInvalid) as caught:
        Config.load(None, environ={}, flags={name: value})
    (mistake,) = caught.value.mistakes
    assert mistake.parameter is not None
    assert mistake.parameter.startswith(f"flag  {name}")
    return mistake.detail


def test_defaults() -> None:
    """Without anything set, the values are those of the contract."""
    config = Config()

    assert ("127.0.0.1:8700", 1048576, 16777216) == (
        config.server.listen,
        config.server.max_body,
        config.server.max_batch_body,
    )
    assert ("full", 30 * DAY) == (config.store.synchronous, config.store.retention)
    assert (256, 10_000, 33554432) == (
        config.delivery.concurrency,
        config.delivery.queue_size,
        config.delivery.payload_cache,
    )
    assert (25_000, "standard", False) == (
        config.delivery.drain,
        config.delivery.default_profile,
        config.delivery.strict_event_types,
    )
    assert (False, (), frozenset(), None) == (
        config.security.allow_http,
        config.security.allow_networks,
        config.security.allow_ports,
        config.security.proxy,
    )
    assert ("info", "console", {}) == (config.log.level, config.log.format, config.plans)
    assert dict(PROFILES) == config.profiles
    assert config == Config.load(None, environ={}, flags={})


def test_the_options_are_those_of_the_contract() -> None:
    """No option is missing, and none is there that is not listed here."""
    assert {
        "server": ["listen", "max_body", "max_batch_body", "events_per_second", "failed_auth_per_minute"],
        "store": ["synchronous", "retention"],
        "delivery": [
            *("concurrency", "queue_size", "payload_cache", "drain", "default_profile", "strict_event_types"),
        ],
        "security": ["allow_http", "allow_networks", "allow_ports", "proxy"],
        "log": ["level", "format"],
    } == {section: [option.key for option in options] for section, options in groupby(OPTIONS, key=lambda each: each.section)}


@pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
def test_every_option_is_settable_everywhere(tmp_path: Path, option: Any) -> None:
    """Each option is taken from the file, from the environment and from flags, alike, and is documented."""
    value = {
        "server.listen": '"[::1]:0"',
        "store.synchronous": '"normal"',
        "delivery.default_profile": '"svix"',
        "security.allow_networks": '["10.0.0.0/8", "fd00::/8"]',
        "security.allow_ports": "[443, 8443]",
        "security.proxy": '"http://u:p@proxy.internal:3128"',
        "log.level": '"debug"',
        "log.format": '"json"',
    }.get(option.name, {Duration: '"5m"', bool: "true"}.get(option.type, "4096"))
    parsed = tomllib.loads(f"x = {value}")["x"]
    text = ",".join(map(str, parsed)) if isinstance(parsed, list) else str(parsed)
    found = [
        from_toml(tmp_path, f"[{option.section}]\n{option.key} = {value}\n"),
        Config.load(None, environ={option.variable: text}, flags={}),
        Config.load(None, environ={}, flags={option.name: text}),
        Config.load(None, environ={}, flags={option.name: parsed}),
    ]

    assert [found[0]] * 4 == found
    assert option.default != getattr(getattr(found[0], option.section), option.key)
    assert option.help.endswith(".")


def test_order(tmp_path: Path) -> None:
    """Flags win over the environment, that over the file, and that over the defaults."""
    path = tmp_path / "config.toml"
    path.write_text('[server]\nlisten = "127.0.0.1:1"\nmax_body = 11\n[store]\nretention = "1d"\n')

    config = Config.load(
        path,
        environ={"HOOKENGINE_SERVER_LISTEN": "127.0.0.1:2", "HOOKENGINE_SERVER_MAX_BODY": "12", "PATH": "x"},
        flags={"server.listen": "127.0.0.1:3", "server.max_body": None},
    )

    assert ("127.0.0.1:3", 12, DAY) == (config.server.listen, config.server.max_body, config.store.retention)


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        pytest.param("HOOKENGINE_SECURITY_ALLOW_HTTP", "1", "security.allow_http  expected true or false", id="boolean"),
        pytest.param("HOOKENGINE_DELIVERY_CONCURRENCY", "x", "delivery.concurrency  expected an integer", id="integer"),
        pytest.param("HOOKENGINE_SECURITY_ALLOW_PORTS", "1,x", "security.allow_ports[1]  expected an integer", id="list"),
    ],
)
def test_variable_of_another_type_is_told_what_to_write(variable: str, text: str, sentence: str) -> None:
    """That a variable is a string is no news: what is wanted is said."""
    with pytest.raises(ConfigInvalid) as caught:
        Config.load(None, environ={variable: text}, flags={})

    assert f"{variable}  {sentence}" == caught.value.detail


def test_sources(tmp_path: Path) -> None:
    """For each option it is known where its value is from."""
    path = tmp_path / "config.toml"
    path.write_text('[server]\n\nlisten = "127.0.0.1:1"\n')

    found = sources(path, environ={"HOOKENGINE_STORE_RETENTION": "1d"}, flags={"log.level": "debug", "log.format": None})

    assert [option.name for option in OPTIONS] == list(found)
    assert (f"{path}:3", "HOOKENGINE_STORE_RETENTION", "flag", "default") == (
        found["server.listen"],
        found["store.retention"],
        found["log.level"],
        found["log.format"],
    )


def test_every_mistake_is_named(tmp_path: Path) -> None:
    """All mistakes are reported together, each with its place, its option and what was meant."""
    text = """\
[server]
listne = "127.0.0.1:1"
max_body = "big"

[delivery]
drain = "soon"
concurrency = true
[security]
allow_networks = [
  "10.0.0.0/8",
  "0.0.0.0/0",
]
[sever]
[plans.gold]
max_subs = 3
[profiles]
acme = 5
"""
    with pytest.raises(ConfigInvalid) as caught:
        from_toml(tmp_path, text, HOOKENGINE_LOG_LEVL="x", HOOKENGINE_LOG_FORMAT="xml")

    at = f"{tmp_path}/config.toml"
    assert [
        ("HOOKENGINE_LOG_LEVL", "unknown_variable"),
        (f"{at}:17  profiles.acme", "invalid_type"),
        (f"{at}:2  server.listne", "unknown_member"),
        (f"{at}:3  server.max_body", "invalid_type"),
        (f"{at}:6  delivery.drain", "invalid_value"),
        (f"{at}:7  delivery.concurrency", "invalid_type"),
        (f"{at}:9  security.allow_networks[1]", "invalid_value"),
        (f"{at}:13  sever", "unknown_member"),
        (f"{at}:15  plans.gold.max_subs", "unknown_member"),
        ("HOOKENGINE_LOG_FORMAT  log.format", "invalid_value"),
    ] == [(mistake.parameter, mistake.code) for mistake in caught.value.mistakes]
    assert 10 == len(caught.value.detail.splitlines())
    assert "unknown key - did you mean 'listen'?" in caught.value.detail


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:8700", "0.0.0.0:0", "[::1]:8700", "[::]:65535", "localhost:80", "a.b-c.example:1", "127.0.0.1:0"],
)
def test_listen(listen: str) -> None:
    """A host name or an address with its port is where to listen."""
    assert listen == load(server__listen=listen).server.listen


@pytest.mark.parametrize(
    "listen",
    [
        "",
        ":8700",
        "8700",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1:8_0",
        "::1:8700",
        "[::1]",
        "[::1:8700",
        "::1]:8700",
        "[127.0.0.1]:80",
        "300.0.0.1:80",
        "1.2.3:80",
        "a b:80",
        "a:80 ",
        "-a:80",
        "http://a:80",
        "a:\u0661",
        "a:80\n",
        "[[::1]]:80",
        "[]:80",
        "a..:80",
        "9" * 9999 + ":80",
    ],
)
def test_bad_listen(listen: str) -> None:
    """What is no host with a port is refused, with an example."""
    assert refused("server.listen", listen).startswith("expected HOST:PORT such as '127.0.0.1:8700' or '[::1]:8700'")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        ("127.0.0.1", IPv4Network("127.0.0.1/32")),
        ("fc00::/7", IPv6Network("fc00::/7")),
        ("::1", IPv6Network("::1/128")),
    ],
)
def test_networks(text: str, network: Any) -> None:
    """Networks and single addresses may be opened."""
    assert (network,) == load(security__allow_networks=text).security.allow_networks


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("0.0.0.0/0", "wider than any private network", id="SR30"),
        pytest.param("::/0", "wider than any private network", id="SR30-IPv6"),
        pytest.param("0.0.0.0/1", "wider than any private network", id="SR30-half"),
        pytest.param("128.0.0.0/1", "wider than any private network", id="SR30-other-half"),
        pytest.param("8000::/1", "wider than any private network", id="SR30-IPv6-half"),
        pytest.param("::ffff:0:0/96", "IPv4 network itself", id="SR30-mapped"),
        pytest.param("::ffff:10.0.0.0/104", "IPv4 network itself", id="mapped"),
        pytest.param("169.254.0.0/16", "cannot be opened, because of 169.254.0.0/16", id="link local"),
        pytest.param("fe80::/10", "cannot be opened, because of fe80::/10", id="link local, IPv6"),
        pytest.param("fe80::1", "cannot be opened, because of fe80::/10", id="link local, one address"),
        pytest.param("0.0.0.0/8", "cannot be opened, because of 0.0.0.0/8", id="this network"),
        pytest.param("168.63.129.16", "cannot be opened, because of 168.63.129.16/32", id="metadata"),
        pytest.param("10.0.0.1/8", "is an address in 10.0.0.0/8: give 10.0.0.1, or the network", id="host bits"),
        pytest.param("10.0.0.0/33", "expected a network", id="prefix"),
        pytest.param("localhost", "expected a network", id="name"),
        pytest.param("\x1b" * 9999, "expected a network", id="long"),
    ],
)
def test_bad_networks(text: str, reason: str) -> None:
    """Whole address families, halves of them, what stays closed and what is no network are refused with the reason."""
    detail = refused("security.allow_networks", [text])

    assert reason in detail
    assert detail.isprintable()
    assert len(detail) < 600  # 100 characters, escaped


@pytest.mark.parametrize("proxy", ["http://proxy:3128", "http://u:p@10.0.0.1:1/", "https://proxy.example"])
def test_proxy(proxy: str) -> None:
    """A proxy is a URL; what it may hold of a password is not shown."""
    config = load(security__proxy=proxy)

    assert proxy == config.security.proxy
    assert proxy not in repr(config)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://a%3Ab:pw@proxy:3128",
        "proxy:3128",
        "socks5://p:1",
        "http://",
        "http://p:x",
        "http://p:99999",
        "http://p:0",
        "http://p/x",
        "http://p?x",
        "http://p#x",
        "http://p p",
        "http://[::1",
        "http://\xe9",
    ],
)
def test_bad_proxy(proxy: str) -> None:
    """What is no proxy's URL is refused and not repeated."""
    assert "expected a URL such as 'http://proxy.internal:3128'" == refused("security.proxy", proxy)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server.max_body", 0),
        ("delivery.concurrency", 0),
        ("delivery.concurrency", 10_001),
        ("delivery.queue_size", "0"),
        ("delivery.payload_cache", -1),
        ("delivery.drain", "-1s"),
        ("delivery.drain", 5),
        ("store.retention", "forever"),
        ("store.synchronous", "off"),
        ("security.allow_http", "yes"),
        ("security.allow_http", 1),
        ("security.allow_ports", [0]),
        ("security.allow_ports", "65536"),
        ("log.level", "trace"),
        ("log.format", "xml"),
        ("server.listen", 8700),
        ("server.port", 8700),
    ],
)
def test_bad_values(name: str, value: Any) -> None:
    """A value outside what its option allows is refused."""
    assert refused(name, value)


def test_named_tables(tmp_path: Path) -> None:
    """Plans and profiles are read, and the dashboard's table may be there."""
    config = from_toml(
        tmp_path, '[plans.free]\nmax_subscriptions = 3\n[plans.gold]\n[profiles.acme]\nextends = "svix"\n[dashboard]\n'
    )

    assert {"free": Plan(max_subscriptions=3), "gold": Plan()} == config.plans
    assert [*PROFILES, "acme"] == list(config.profiles)
    assert msgspec.structs.replace(PROFILES["svix"], name="acme") == config.profiles["acme"]


@pytest.mark.parametrize(
    "text",
    [
        '[plans."a b"]',
        "[plans.free]\nmax_subscriptions = -1",
        "[plans]\nfree = 3",
        "[dashboard]\nx = 1",
        "plans = 5",
        "x = 1",
        '[profiles.acme]\nextends = "svix"\nsince = 2020-01-01',
        "profiles = 5",
        "server = 5",
    ],
)
def test_bad_tables(tmp_path: Path, text: str) -> None:
    """Tables with names are checked as far as their meaning is known here."""
    with pytest.raises(ConfigInvalid) as caught:
        from_toml(tmp_path, text)

    assert 1 == len(caught.value.mistakes)


def test_tables_with_names_come_from_the_file_only() -> None:
    """No variable makes a plan."""
    assert Config() == Config.load(None, environ={"HOOKENGINE_PLANS_FREE": "3", "HOOKENGINE_PROFILES_X": "y"}, flags={})


@pytest.mark.parametrize(
    "service", ["hookengine", "hookengine-server", "hookengine-store", "hookengine-delivery", "hookengine-log"]
)
@pytest.mark.parametrize(
    "what", ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8700_TCP", "PORT_8700_TCP_ADDR"]
)
def test_variables_of_container_platforms(service: str, what: str) -> None:
    """What Kubernetes sets for a service with our name does not keep the daemon from starting."""
    variable = f"{service}_{what}".upper().replace("-", "_")

    assert Config() == Config.load(None, environ={variable: "tcp://10.0.0.1:8700"}, flags={})


def test_made_by_hand() -> None:
    """A program that builds its own configuration meets the same rules, and may write texts."""
    config = Config(
        delivery=Delivery(drain="5s"),  # type: ignore[arg-type]  # a text is read as in a file
        security=Security(allow_networks=["10.0.0.0/8"], allow_ports=[443]),  # type: ignore[arg-type]  # the same
        store=Store(retention=Duration(5)),
    )

    assert (5000, 5) == (config.delivery.drain, config.store.retention)
    assert ((IPv4Network("10.0.0.0/8"),), {443}) == (config.security.allow_networks, set(config.security.allow_ports))


def test_made_by_hand_wrong() -> None:
    """A wrong value is refused when the configuration is made, not when it is used."""
    with pytest.raises(ConfigInvalid) as caught:
        Config(delivery=Delivery(concurrency=0), server=Server(listen=""), log="debug")  # type: ignore[arg-type]  # on purpose

    assert ["Config  server.listen", "Config  delivery.concurrency", "Config  log"] == [
        mistake.parameter for mistake in caught.value.mistakes
    ]
    with pytest.raises(ConfigInvalid) as caught:
        Config(delivery=Delivery(default_profile="x"), profiles={"acme": {"jitter": 0.1}})  # type: ignore[arg-type]  # on purpose
    assert ["Config  profiles.acme.extends", "Config  delivery.default_profile"] == [
        mistake.parameter for mistake in caught.value.mistakes
    ]


def test_for_development() -> None:
    """Development allows http and loopback beside what was allowed, and changes nothing else."""
    before = load(security__allow_networks="10.0.0.0/8", server__listen="127.0.0.1:1")

    after = for_development(before)

    assert after.security.allow_http
    assert ["10.0.0.0/8", "127.0.0.0/8", "::1/128"] == list(map(str, after.security.allow_networks))
    assert (before.server, before.delivery) == (after.server, after.delivery)
    assert after == for_development(after)
    assert not before.security.allow_http


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "true"),
        (5, "5"),
        (Duration(90_000), '"90s"'),
        ('a"b', '"a\\"b"'),
        (frozenset({8443, 443}), "[443, 8443]"),
        ((IPv4Network("10.0.0.0/8"),), '["10.0.0.0/8"]'),
        (Secret("http://u:p@h"), '"***"'),
    ],
)
def test_written(value: Any, expected: str) -> None:
    """Values are shown as TOML, secrets are not shown."""
    assert expected == written(value)


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    """The example names every option, sets each to its default, and is what is in the repository."""
    text = (ROOT / "config.example.toml").read_text()

    assert example() == text
    assert Config() == from_toml(tmp_path, text)
    assert all(f"\n{option.key} = " in text or f"\n# {option.key} = " in text for option in OPTIONS)


def test_the_example_without_comments(tmp_path: Path) -> None:
    """What the example has as a comment is valid too."""
    lines = example().splitlines()
    config = from_toml(
        tmp_path, "\n".join(line.removeprefix("# ") if " = " in line or "# [" in line else line for line in lines)
    )

    assert ({"free": Plan(max_subscriptions=3)}, "http://proxy.internal:3128") == (config.plans, config.security.proxy)
    acme = config.profiles["acme"]
    # `batch` is not among them: the envelope of the example holds one event.
    for key in set(ProfileTable.__struct_fields__) - {"extends", "signatures", "batch"}:  # none of them is without effect
        assert f"\n# {key} = " in example()
    assert ("PUT", "data", "tenant", 200) == (acme.method, acme.envelope.name, acme.secret_scope, acme.verify_on_save)
    assert ["X-Acme-Signature"] == [scheme.header for scheme in acme.schemes]


def test_the_reference_is_current() -> None:
    """The reference in the repository is the one generated, with every option."""
    text = (ROOT / "docs" / "configuration.md").read_text()

    assert reference() == text
    assert all(f"| `{option.key}` | `{option.variable}` |" in text for option in OPTIONS)
    assert all(f"\n| `{key}` | " in text for table in (ProfileTable, SignatureTable) for key in table.__struct_fields__)


def test_mistakes_in_profiles_have_their_places(tmp_path: Path) -> None:
    """What is wrong with a profile is reported with all else, at its line, also in one of several signatures."""
    text = """\
[delivery]
default_profile = "acne"
[profiles.acme]
extends = "standrd"
timeuot = "5s"
[[profiles.acme.signatures]]
header = "X-A"
value = "{signature}"
signed = "{body}"
[[profiles.acme.signatures]]
header = "X B"
value = "{signature}"
signed = "{body}"
[profiles.acme.headers]
X-C = "{tennant}"
[log]
level = "loud"
"""
    with pytest.raises(ConfigInvalid) as caught:
        from_toml(tmp_path, text)

    at = f"{tmp_path}/config.toml"
    assert [
        (f"{at}:5  profiles.acme.timeuot", "unknown_member"),
        (f"{at}:11  profiles.acme.signatures[1].header", "invalid_value"),
        (f"{at}:15  profiles.acme.headers.X-C", "invalid_value"),
        (f"{at}:4  profiles.acme.extends", "unknown_profile"),
        (f"{at}:2  delivery.default_profile", "unknown_profile"),
        (f"{at}:17  log.level", "invalid_value"),
    ] == [(mistake.parameter, mistake.code) for mistake in caught.value.mistakes]
    assert "did you mean 'timeout'?" in caught.value.detail
    assert "did you mean 'standard'?" in caught.value.detail


def test_default_profile_may_be_one_of_the_file(tmp_path: Path) -> None:
    """A profile of the file can be the default, and one that is wrong is one mistake."""
    text = '[delivery]\ndefault_profile = "acme"\n[profiles.acme]\nextends = "svix"\n'
    config = from_toml(tmp_path, text)

    assert "acme" == config.delivery.default_profile
    assert config == Config(delivery=Delivery(default_profile="acme"), profiles={"acme": {"extends": "svix"}})  # type: ignore[arg-type]  # tables, as in a file
    with pytest.raises(ConfigInvalid) as caught:
        from_toml(tmp_path, text + "jitter = 2")
    assert ["profiles.acme.jitter"] == [(mistake.parameter or "").split()[-1] for mistake in caught.value.mistakes]


def test_window_holds_at_least_what_is_in_flight(tmp_path: Path) -> None:
    """A queue smaller than the concurrency is refused, with the reason, as is an unknown default profile."""
    file = tmp_path / "config.toml"
    file.write_text("[delivery]\nconcurrency = 300\nqueue_size = 10\n")
    with pytest.raises(ConfigInvalid, match="queue_size must be at least concurrency") as caught:
        Config.load(file, environ={}, flags={})
    assert 1 == len(caught.value.mistakes)

    file.write_text('[delivery]\ndefault_profile = "standrd"\n')
    with pytest.raises(ConfigInvalid, match="did you mean 'standard'"):
        Config.load(file, environ={}, flags={})
