"""Which of an endpoint's words are hidden, and how long that takes."""

from __future__ import annotations

import html
import random
import time
import tracemalloc
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import orjson
import pytest

from hookengine.auth import basic
from hookengine.concealing import Concealer
from hookengine.models import (
    Accepted,
    AttemptError,
    BasicAuth,
    ErrorCode,
    Refused,
    Request,
    Response,
    Secret,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Callable


CREDENTIAL = "Bearer s3cret.(token)+"


def sent(*headers: tuple[str, str], hidden: tuple[str, ...] = ("authorization",)) -> Request:
    """A request whose headers *hidden* are credentials."""
    return Request(method="POST", url="https://x.example/", headers=headers, body=b"", hidden=frozenset(hidden))


@pytest.mark.row("R78")
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("you sent Bearer s3cret.(token)+", "you sent ***"),
        ("s3cret.(token)+s3cret.(token)+", "******"),
        ("basic s3cret.(token)+, or what", "basic ***, or what"),
        ("s3cret", "s3cret"),
        ("", ""),
    ],
)
def test_repeated_credential_is_concealed(said: str, kept: str) -> None:
    """Wherever an endpoint repeats a credential, in headers, body or what is no HTTP, it is not kept."""
    answer = Response(status=500, headers=(("X-Echo", said),), body=b"\xff" + said.encode(), truncated=True)
    error = AttemptError(code=ErrorCode.MALFORMED_RESPONSE, detail=f"no HTTP: {said}")
    request = sent(("Authorization", Secret(CREDENTIAL)))
    concealed = Response(status=500, headers=(("X-Echo", kept),), body=b"\xff" + kept.encode(), truncated=True)

    assert Accepted(response=concealed) == Concealer().conceal(Accepted(response=answer), request)
    refused = Concealer().conceal(Refused(error=error, response=answer), request)
    assert Refused(error=AttemptError(code=error.code, detail=f"no HTTP: {kept}"), response=concealed) == refused
    assert isinstance(told := Concealer().conceal(Unreachable(error=error), request), Unreachable)
    assert f"no HTTP: {kept}" == told.error.detail


SLASHED = 'Token s3cr/t"&<one>-two words-of-it'


@pytest.mark.row("R78")
@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param(orjson.dumps(SLASHED).decode(), '"***"', id="JSON"),
        pytest.param(orjson.dumps(SLASHED).decode().replace("/", "\\/"), '"***"', id="JSON of PHP"),
        pytest.param(
            orjson.dumps(SLASHED).decode().replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
            '"***"',
            id="JSON of Go",
        ),
        pytest.param("".join(f"\\u{ord(each):04X}" if each in '"&<>' else each for each in SLASHED), "***", id="JSON of .NET"),
        pytest.param(quote(SLASHED), "***", id="URL"),
        pytest.param(quote_plus(SLASHED), "***", id="form"),
        pytest.param(html.escape(SLASHED), "***", id="HTML"),
        pytest.param(SLASHED.upper(), "***", id="upper case"),
        pytest.param(f"first {SLASHED.split()[1]} and {SLASHED.split()[2]}", "first *** and ***", id="words"),
        pytest.param(f"cut: {SLASHED[:-1]}", "cut: ***", id="cut by one"),
        pytest.param(f"cut: {SLASHED[:12]}", "cut: ***", id="cut after twelve"),
        pytest.param(f"cut: {SLASHED[:11]}", f"cut: {SLASHED[:11]}", id="cut after eleven"),
        pytest.param(f"{SLASHED[:20]}, {SLASHED}", "***, ***", id="cut and whole"),
    ],
)
def test_repeated_credential_is_concealed_in_every_spelling(said: str, kept: str) -> None:
    """What an endpoint prints as JSON, in a URL or a page, in parts, or cut, is not kept either."""
    answer = Accepted(response=Response(status=200, headers=(("X-Echo", said),), body=said.encode(), truncated=True))
    told = Concealer().conceal(answer, sent(("X-Key", SLASHED), hidden=("x-key",)))

    assert told.response == Response(status=200, headers=(("X-Echo", kept),), body=kept.encode(), truncated=True)


def test_credential_is_concealed_in_names() -> None:
    """Also as the name of a header, and with letters that are not ASCII, it is not kept."""
    response = Response(status=200, headers=(("long-enough-key", "x"),), body=b"", truncated=False)
    told = Concealer().conceal(Accepted(response=response), sent(("X-Key", "long-enough-key"), hidden=("x-key",))).response
    assert told is not None
    assert (("***", "x"),) == told.headers
    response = Response(status=200, headers=(), body=b"schl\\u00fcssel-1 schl\\u00FCssel-1", truncated=False)
    told = Concealer().conceal(Accepted(response=response), sent(("X-Key", "schl\u00fcssel-1"), hidden=("x-key",))).response
    assert told is not None
    assert b"*** ***" == told.body


def test_password_is_concealed() -> None:
    """Of basic credentials the password is not kept either, wherever an endpoint names it."""
    name, value = basic(BasicAuth(username="me", password=Secret("p:assword/1")))
    answer = Accepted(response=Response(status=401, headers=(), body=b"me/p:assword/1 is wrong", truncated=False))

    assert b"me/*** is wrong" == Concealer().conceal(answer, sent((name, value))).response.body  # type: ignore[union-attr]  # an answer came


def test_only_credentials_are_concealed() -> None:
    """Headers that are no credentials, and credentials so short that they are in every answer, are left where they are."""
    answer = Accepted(response=Response(status=200, headers=(), body=b"long-enough short", truncated=False))

    assert answer is Concealer().conceal(answer, sent(("X-Shown", "long-enough"), ("X-Key", "short"), hidden=("x-key",)))
    assert answer is Concealer().conceal(answer, sent(hidden=()))


def test_longer_credential_goes_first() -> None:
    """Of two credentials the one that holds the other is found whole."""
    answer = Accepted(response=Response(status=200, headers=(), body=b"secret-1 secret-1-and-more", truncated=False))
    request = sent(("X-A", "secret-1"), ("X-B", "secret-1-and-more"), hidden=("x-a", "x-b"))

    assert b"*** ***" == Concealer().conceal(answer, request).response.body  # type: ignore[union-attr]  # an answer came


def many_words(seed: int) -> list[tuple[str, str]]:
    """Headers of as many words as there may be, each of which has many spellings, and all of which begin alike."""
    chosen = random.Random(seed)
    words = [f"<<<<{''.join(chosen.choices('<>&/+=', k=4))}" for _ in range(900)]
    return [(f"X-{n}", " ".join(words[n::4])) for n in range(4)]


HIDDEN_WORDS = ("x-0", "x-1", "x-2", "x-3", "x-key")


def test_credential_is_concealed_beside_many_words() -> None:
    """Where there are more words than are looked for, a credential is found in all spellings, and the others whole."""
    headers = many_words(1)
    said = f"{headers[3][1]}, {quote(SLASHED)}, {SLASHED.split()[1]}".encode()
    answer = Accepted(response=Response(status=200, headers=(), body=said, truncated=False))
    request = sent(*headers, ("X-Key", SLASHED), hidden=HIDDEN_WORDS)

    assert b"***, ***, ***" == Concealer().conceal(answer, request).response.body  # type: ignore[union-attr]  # an answer came


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("pa!ss/word+9", "pa!ss%2Fword%2B9"),
        ("x'9(k)Zq&4mm7", "x'9(k)Zq%264mm7"),
        ("aB3/x9+Qk2==", "aB3%2fx9%2bQk2%3d%3d"),
        ("x'9(k)Zq&4mm7", "x&#39;9(k)Zq&amp;4mm7"),
        ('x"9(k)Zq&4mm7', "x&#34;9(k)Zq&amp;4mm7"),
    ],
)
def test_other_languages_spellings_are_concealed(secret: str, said: str) -> None:
    """As JavaScript and .NET write it into URLs, and Go into HTML."""
    answer = Accepted(response=Response(status=200, headers=(), body=said.encode(), truncated=False))
    found = Concealer().conceal(answer, sent(("authorization", f"Bearer {secret}")))

    assert isinstance(found, Accepted)
    assert b"***" == found.response.body


@pytest.mark.parametrize(
    ("secret", "said", "kept"),
    [
        pytest.param("a+b/cdefgh=", "a&#43;b/cdefgh=", "***", id="decimal, as Go"),
        pytest.param("a+b/cdefgh=", "<a&#x2B;b&#x2F;cdefgh&#x3d;>", "<***>", id="hexadecimal"),
        pytest.param("a+b/cdefgh=", "a&#X002b;b&#00000000000047;cdefgh&#061;", "***", id="zeros before"),
        pytest.param("a+b/cdefgh=", "&#97;&plus;b&sol;cdefgh&equals;", "***", id="names, and a letter"),
        pytest.param("a+b/cdefgh=", "".join(f"&#{ord(each)};" for each in "a+b/cdefgh="), "***", id="all"),
        pytest.param("a+b/cdefgh=", "&lt;a&#43;b/cdefgh=&gt;a&#43;b/cdefgh=", "&lt;***&gt;***", id="twice, among others"),
        pytest.param("abcdefghijklm+opqrstu", "abcdefghijklm&#43;opqrstu &#43;", "*** &#43;", id="behind a beginning"),
        pytest.param("abcdefghijklm+opqrstu", "abcdefghijklm&#43;opq", "***", id="cut"),
        pytest.param("abcdefghijkl&lt;opqrstu", "abcdefghijkl&lt;opqrstu", "***", id="a reference of its own"),
        pytest.param("abcdefghijkl&lt;opqrstu", "abcdefghijkl&amp;lt;opqrstu", "***", id="and that as HTML"),
        pytest.param("schl\u00fcssel-1", "schl&uuml;ssel-1", "***", id="not ASCII"),
        pytest.param('a"b+cdefgh', "a\\&quot;b&#43;cdefgh", "***", id="JSON in HTML"),
        pytest.param("a+b/zyxwvu=", "a&#43b&#x2fzyxwvu&#061", "***", id="without an end"),
        pytest.param(
            "a+b/cdefgh=",
            "&#1114112;&#9999999;&none;&fjlig;&#xD800;&#;&",
            "&#1114112;&#9999999;&none;&fjlig;&#xD800;&#;&",
            id="none",
        ),
    ],
)
def test_every_reference_of_html_is_read(secret: str, said: str, kept: str) -> None:
    """However a page writes the characters of a credential, by number or by name, it is not kept."""
    answer = Accepted(response=Response(status=200, headers=(), body=said.encode(), truncated=False))
    found = Concealer().conceal(answer, sent(("authorization", f"Bearer {secret}")))

    assert isinstance(found, Accepted)
    assert kept.encode() == found.response.body


@pytest.mark.parametrize("length", [7_400, 7_600, 12_000])
def test_longest_token_is_concealed(length: int) -> None:
    """Of a token of which there is no room for all spellings, at least the one that was sent is found."""
    token = ("cv+j/ij" * length)[:length]
    answer = Accepted(response=Response(status=400, headers=(), body=f"invalid {token}.".encode(), truncated=False))
    found = Concealer().conceal(answer, sent(("authorization", f"Bearer {token}")))

    assert isinstance(found, Accepted)
    assert b"invalid ***." == found.response.body


def test_each_of_many_credentials_is_concealed() -> None:
    """With thirty headers of two words each, every word is found as it was sent."""
    tokens = [f"{number:02}" + "a+/" * 20 for number in range(31)]
    names = tuple(f"x-{number}" for number in range(31))
    request = sent(*((name, f"Token {token}") for name, token in zip(names, tokens, strict=True)), hidden=names)
    answer = Accepted(response=Response(status=200, headers=(), body=" ".join(tokens).encode(), truncated=False))
    found = Concealer().conceal(answer, request)

    assert isinstance(found, Accepted)
    assert " ".join(["***"] * 31).encode() == found.response.body


@pytest.mark.alone
@pytest.mark.parametrize(
    "repeated", ["<", "%3C", "&lt;", "&#60;", "&#0", "&", "<&#60;", "<<<<>>>>", "<<<<<<<<<<<<~", "<<<<<<<<<<<&lt;~"]
)
def test_many_words_keep_nobody_waiting(repeated: str, record_property: Callable[[str, object], None]) -> None:
    """The longest answer, made of what many words begin with, is looked through in milliseconds."""
    body = (repeated.encode() * 16_384)[:16_384]
    answer = Accepted(response=Response(status=200, headers=(), body=body, truncated=True))
    request = sent(*many_words(1), hidden=HIDDEN_WORDS)
    concealer = Concealer()
    concealer.conceal(answer, request)
    began = time.process_time()
    concealer.conceal(answer, request)
    took = time.process_time() - began
    record_property("milliseconds", round(took * 1e3, 1))

    # Trying each of all spellings at each place takes seconds; this is far from both.
    assert took < 0.1


@pytest.mark.alone
def test_what_is_kept_of_credentials_is_bounded() -> None:
    """Credentials that are sent no more, however many they were, take no memory beyond what is kept of the last ones."""
    answer = Accepted(response=Response(status=200, headers=(), body=b"", truncated=False))
    concealer = Concealer()
    tracemalloc.start()
    try:
        for seed in range(150):
            concealer.conceal(answer, sent(*many_words(seed), hidden=HIDDEN_WORDS))
        kept, _ = tracemalloc.get_traced_memory()
        del concealer
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 12 * 1024 * 1024
    assert left < kept / 2
