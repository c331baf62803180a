"""File, environment and flags are laid over each other, and every value has its place."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from hookengine.errors import ConfigInvalid, Mistake
from hookengine.sources import Option, Sources, _lines, invalid

if TYPE_CHECKING:
    from pathlib import Path


def option(section: str, key: str, hint: Any) -> Option:
    """An option of that type."""
    return Option(section=section, key=key, type=hint, default=None, help="", allowed="")


OPTIONS = (
    option("server", "listen", str),
    option("server", "size", int),
    option("server", "strict", bool),
    option("server", "proxy", str | None),
    option("server", "doors", frozenset[Annotated[int, Meta(ge=1)]]),
    option("server", "networks", tuple[IPv4Network, ...]),
    option("log", "level", str),
)


def read(path: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, Any] | None = None) -> Sources:
    """The three, with the options above."""
    return Sources.read(path, environ=environ or {}, flags=flags or {}, options=OPTIONS)


def test_options_have_names() -> None:
    """The names of an option follow from its section and key."""
    assert ("server.listen", "HOOKENGINE_SERVER_LISTEN") == (OPTIONS[0].name, OPTIONS[0].variable)


def test_nothing() -> None:
    """Without any source there is nothing."""
    sources = read()

    assert ({}, {}, []) == (sources.tables, sources.places, sources.mistakes)


def test_later_ones_win(tmp_path: Path) -> None:
    """Flags win over the environment, and that over the file; what each does not name stays."""
    path = tmp_path / "config.toml"
    path.write_text('[server]\nlisten = "file"\nsize = 1\nstrict = true\n')

    sources = read(
        path,
        {"HOOKENGINE_SERVER_LISTEN": "variable", "HOOKENGINE_SERVER_SIZE": "2"},
        {"server.listen": "flag", "server.size": None, "server.doors": "1,2", "log.level": "debug", "x": "y"},
    )

    assert {
        "server": {"listen": "flag", "size": 2, "strict": True, "doors": [1, 2]},
        "log": {"level": "debug"},
        "x": {"": "y"},
    } == sources.tables
    assert "flag" == sources.places["server", "listen"]
    assert "HOOKENGINE_SERVER_SIZE" == sources.places["server", "size"]
    assert f"{path}:4" == sources.places["server", "strict"]


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("listen", "", ""),
        ("listen", "5", "5"),
        ("size", "5", 5),
        ("size", "-5", -5),
        ("size", "5 MB", "5 MB"),
        ("size", "", ""),
        ("size", "9" * 5000, "9" * 5000),
        ("strict", "true", True),
        ("strict", "False", False),
        ("strict", "1", "1"),
        ("proxy", "", None),
        ("proxy", "x", "x"),
        ("doors", "", []),
        ("doors", "443, 8443,", [443, 8443]),
        ("doors", "443,x", [443, "x"]),
        ("networks", "10.0.0.0/8,::/0", ["10.0.0.0/8", "::/0"]),
    ],
)
def test_variables_are_read_by_type(key: str, text: str, expected: Any) -> None:
    """The text of a variable becomes what TOML would hold; one that cannot is left for the check of types."""
    found = read(environ={f"HOOKENGINE_SERVER_{key.upper()}": text}).tables["server"][key]

    assert (type(expected), expected) == (type(found), found)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HOOKENGINE_SERVER_LISTNE", "HOOKENGINE_SERVER_LISTEN"),
        ("HOOKENGINE_SEVER_LISTEN", "HOOKENGINE_SERVER_LISTEN"),
        ("HOOKENGINE_LOG_LEVL", "HOOKENGINE_LOG_LEVEL"),
        ("HOOKENGINE_SERVER__LISTEN", "HOOKENGINE_SERVER_LISTEN"),
        ("HOOKENGINE_ENCRYPTION_KEYS", "HOOKENGINE_ENCRYPTION_KEY"),
        ("HOOKENGINE_ENCRYPTON_KEY", "HOOKENGINE_ENCRYPTION_KEY"),
    ],
)
def test_misspelled_variables(variable: str, meant: str) -> None:
    """A variable that is nearly an option, or nearly the key's, is a mistake."""
    assert [(variable, f"unknown variable - did you mean {meant}?")] == [
        (place, mistake.detail) for place, mistake in read(environ={variable: "x"}).mistakes
    ]


@pytest.mark.parametrize(
    "variable",
    [
        *(
            "HOOKENGINE_URL",
            "HOOKENGINE_TOKEN",
            "HOOKENGINE_DATA",
            "HOOKENGINE_ENCRYPTION_KEY",
            "HOOKENGINE_",
            "HOOKENGINE_CONFIG",
        ),
        *("HOOKENGINE_PORT", "HOOKENGINE_SERVICE_HOST", "HOOKENGINE_SERVICE_PORT_HTTP", "HOOKENGINE_PORT_8700_TCP_ADDR"),
        *("HOOKENGINE_SERVER_PORT", "HOOKENGINE_SERVER_SERVICE_HOST", "HOOKENGINE_SERVER_PORT_8700_TCP_PROTO"),
        *("HOOKENGINE_LOG_PORT", "HOOKENGINE_LOG_SERVICE_PORT", "SERVER_LISTEN", "PATH", "HOOKENGINE_" + "X" * 100_000),
    ],
)
def test_other_variables(variable: str) -> None:
    """Variables of the command line, of container platforms and of others are left alone."""
    sources = read(environ={variable: "tcp://10.0.0.1:8700"})

    assert ({}, []) == (sources.tables, sources.mistakes)


def test_a_value_in_place_of_a_table(tmp_path: Path) -> None:
    """A variable does not paper over a section that is no table."""
    path = tmp_path / "config.toml"
    path.write_text("server = 5")

    assert {"server": 5} == read(path, {"HOOKENGINE_SERVER_LISTEN": "x"}).tables


TOML = '''\
# A comment with [brackets] and a = b
top = 1

[server]
listen = "[log]" # not a header
"quoted key" = 1
ports = [
  443, # one
  [8443],
]
text = """
[log]
level = "no"
"""
a.b.c = 1
inline = { x = 1, y = { z = 2 } }
  [ plans . gold ]
	max = 3
[[list]]
item = 1
[[list]]
item = 2
[log]
level = 'x'
'''


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines(newline: str) -> None:
    """Every key has the line that its statement begins in, whatever stands in strings and arrays, also in arrays of tables."""
    found = {".".join(keys): line for keys, line in _lines(TOML.replace("\n", newline).replace("\r\n", "\n")).items()}

    assert {
        "top": 2,
        "server": 4,
        "server.listen": 5,
        "server.quoted key": 6,
        "server.ports": 7,
        "server.text": 11,
        "server.a": 15,
        "server.a.b": 15,
        "server.a.b.c": 15,
        "server.inline": 16,
        "server.inline.x": 16,
        "server.inline.y": 16,
        "server.inline.y.z": 16,
        "plans": 17,
        "plans.gold": 17,
        "plans.gold.max": 18,
        "list": 19,
        "list.0": 19,
        "list.0.item": 20,
        "list.1": 21,
        "list.1.item": 22,
        "log": 23,
        "log.level": 24,
    } == found


VALUES = st.sampled_from(['"a"', "1", "[\n1,\n2]", '"""\n[x]\n"""', "{ p = 1 }", "'''#\n'''", "1979-05-27"])


@given(st.lists(st.tuples(st.sampled_from(["", "\n", "# [c]\n"]), VALUES), max_size=6))
def test_every_key_has_its_line(statements: list[tuple[str, str]]) -> None:
    """The line of a key is the one where its name stands, for any mixture of values, comments and blank lines."""
    text = "[t]\n" + "".join(f"{before}k{number} = {value}\n" for number, (before, value) in enumerate(statements))
    lines = text.split("\n")
    found = _lines(text)

    for key in tomllib.loads(text)["t"]:
        assert lines[found["t", key] - 1].startswith(f"{key} =")


@pytest.mark.parametrize(
    ("pointer", "place"),
    [
        ("/server/listen", "HOOKENGINE_SERVER_LISTEN"),
        ("/server/ports/1", "{path}:2"),
        ("/server/size", "{path}:1"),
        ("/server/a~1b", "{path}:3"),
        ("/log", "{path}"),
        ("", "{path}"),
    ],
)
def test_places(tmp_path: Path, pointer: str, place: str) -> None:
    """A mistake is where its value was set, else where what holds it was, else somewhere in the file."""
    path = tmp_path / "config.toml"
    path.write_text('[server]\nports = [1, 2]\n"a/b" = 1\nlisten = "file"\n')
    sources = read(path, {"HOOKENGINE_SERVER_LISTEN": "x"})

    assert place.format(path=path) == sources.place_of(Mistake(code="", detail="", pointer=pointer))


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        pytest.param(b"[server]\nlisten 5\n", "{path}:2  ", id="syntax"),
        pytest.param(b"a = 1\na = 2\n", "{path}:2  ", id="twice"),
        pytest.param(b'a = "', "{path}  ", id="end"),
        pytest.param(b"a = \xff", "{path} is not UTF-8", id="encoding"),
        pytest.param(b"a = " + b"[" * 100_000, "{path}", id="deep"),
        pytest.param(b"a = " + b"9" * 10_000, "{path}", id="huge number"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, detail: str) -> None:
    """A file that is no TOML is refused with its name and, where it has one, the line."""
    path = tmp_path / "config.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigInvalid) as caught:
        read(path)

    assert caught.value.detail.startswith(detail.format(path=path))
    assert len(caught.value.detail) < len(str(path)) + 200


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there, or is a directory, is refused with the reason."""
    with pytest.raises(ConfigInvalid, match="cannot be read: No such file"):
        read(tmp_path / "no.toml")
    with pytest.raises(ConfigInvalid, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_one_line_each() -> None:
    """Mistakes are shown as aligned lines of place, name and sentence, in the words of TOML."""
    error = invalid(
        [
            ("c.toml:4", Mistake(code="unknown_member", detail="unknown member 'a' - did you mean 'b'?", pointer="/server/a")),
            ("HOOKENGINE_X", Mistake(code="invalid_type", detail="expected an object, got null", pointer="/log/x/0")),
        ]
    )

    assert (
        "c.toml:4      server.a  unknown key - did you mean 'b'?\nHOOKENGINE_X  log.x[0]  expected a table, got null"
    ) == error.detail
    assert (
        Mistake(code="unknown_member", detail="unknown key - did you mean 'b'?", parameter="c.toml:4  server.a"),
        Mistake(code="invalid_type", detail="expected a table, got null", parameter="HOOKENGINE_X  log.x[0]"),
    ) == error.mistakes
    assert 78 == error.exit_status
