"""Credentials that endpoints repeat are not stored in the clear, in whatever spelling they are."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from contextlib import suppress
from html.entities import html5
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus

import orjson
from msgspec.structs import replace

from hookengine.models import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hookengine.models import Outcome, Request

_SHORTEST = 8  # characters of a credential that is looked for
# What encoders of JSON write as numbers, beside what is not ASCII: those of Python and PHP, of Go and Ruby, and of .NET.
_ESCAPING = ("", "&<>", "&<>'\"+`")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")
# How HTML may write any character: by its number, which has zeros before it as it likes and need not end, or by its name.
_REFERENCE = re.compile(r"&(?:#0*+([0-9]{1,7});?|#[xX]0*+([0-9a-fA-F]{1,6});?|([A-Za-z][A-Za-z0-9]{1,31});)")
# What is looked for of one request: some twenty credentials, or the longest token. Headers are 8 KiB of any words, of which
# all spellings would be megabytes, and a second's search in each answer.
_MOST_SPELLINGS = 256
_MOST_CHARACTERS = 131_072
_MOST_KEPT = 8 * 1024 * 1024  # bytes, of all requests
_BEGINNING = 12  # characters of one that are not shown either, where the rest was cut off


class Concealer:
    """
    Hides the credentials that endpoints repeat.

    It keeps the spellings of those that it was asked about last, because it is asked after every attempt.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], Spellings | None] = OrderedDict()
        self._size = 0  # of those that are kept

    def conceal(self, outcome: Outcome, request: Request, *, beside: Sequence[tuple[str, str]] = ()) -> Outcome:
        """
        *outcome* with `***` wherever a credential of *request* is repeated, or of the headers that were sent *beside* it: as
        it was sent, a word of it, the password in it, in the spellings of JSON, URLs and HTML, and where it is cut off.

        So it is not stored in the clear. What is shorter than 8 characters is left: it would make an answer unreadable. Of
        headers with hundreds of words, most are found only whole and as they were sent.
        """
        sent = [value for name, value in request.headers if name.lower() in request.hidden]
        spellings = self._spellings((*sent, *(value for _, value in beside)))
        if spellings is None:
            return outcome
        if outcome.error is not None:  # it may quote what could not be read
            error = replace(outcome.error, detail=hidden(outcome.error.detail, spellings))
            outcome = replace(outcome, error=error)
        answer = outcome.response
        if answer is not None:
            headers = tuple((hidden(name, spellings), hidden(value, spellings)) for name, value in answer.headers)
            body = hidden(answer.body.decode("utf-8", "surrogateescape"), spellings).encode("utf-8", "surrogateescape")
            outcome = replace(outcome, response=replace(answer, headers=headers, body=body))
        return outcome

    def _spellings(self, sent: tuple[str, ...]) -> Spellings | None:
        if sent in self._kept:
            self._kept.move_to_end(sent)
            return self._kept[sent]
        spellings = self._kept[sent] = spellings_of(sent)
        self._size += _size(sent, spellings)
        while self._size > _MOST_KEPT:
            self._size -= _size(*self._kept.popitem(last=False))
        return spellings


class Spellings(NamedTuple):
    """What is looked for."""

    texts: list[str]  # sorted
    beginning: re.Pattern[str]


def spellings_of(sent: tuple[str, ...]) -> Spellings | None:
    """How what was *sent* may be repeated; None where there is nothing that could be found."""
    texts = [text for text in islice(_repeatable(sent), _MOST_SPELLINGS) if len(text) >= _SHORTEST]
    found = {value for value in sent if len(value) >= _SHORTEST}.union(texts)  # as they were sent, whatever else there is
    size = sum(map(len, found))
    for text in texts:
        more = _spelled(text) - found
        more_size = sum(map(len, more))
        if len(found) + len(more) <= 2 * _MOST_SPELLINGS and size + more_size <= _MOST_CHARACTERS:
            found |= more
            size += more_size
    if not found:
        return None
    return Spellings(sorted(found), re.compile(_any_of(sorted({each[:_BEGINNING] for each in found}))))


def _size(sent: tuple[str, ...], spellings: Spellings | None) -> int:
    """About how many bytes it takes to keep *spellings* of what was *sent*."""
    texts = [] if spellings is None else spellings.texts
    return sum(map(len, sent)) + sum(map(len, texts)) + 250 * len(texts) + 1000


def _repeatable(sent: tuple[str, ...]) -> Iterator[str]:
    """What was *sent*, the passwords and the words in it; what has the most words, and is rather a text, comes last."""
    for value in sorted(sent, key=lambda value: value.count(" ")):
        yield value
        if value[:6].lower() == "basic ":
            with suppress(ValueError):  # another's scheme of this name
                yield b64decode(value[6:]).decode().partition(":")[2]
        yield from value.split(" ")


def _spelled(text: str) -> set[str]:
    """*text* in all spellings in which it is long enough to be looked for."""
    escaped = orjson.dumps(text).decode()[1:-1]
    found = {
        text,
        text.upper(),
        text.lower(),
        escaped,
        escaped.replace("/", "\\/"),
    }
    in_urls = {quote(text), quote(text, safe=""), quote_plus(text), quote(text, safe="!'()*")}  # the last is JavaScript's
    found |= in_urls | {_PERCENT.sub(lambda each: each[0].lower(), each) for each in in_urls}
    found |= {_as_json(text, escaping, case) for escaping in _ESCAPING for case in ("04x", "04X")}
    return {each for each in found if len(each) >= _SHORTEST}


def _as_json(text: str, escaping: str, case: str) -> str:
    """*text* within a JSON text that has all but ASCII, and the characters *escaping*, as numbers."""
    written = json.dumps(text)[1:-1]
    if not text.isascii():
        written = _ESCAPE.sub(lambda each: f"\\u{int(each[1], 16):{case}}" if each[1] else each[0], written)
    for char in escaping:
        written = written.replace(json.dumps(char)[1:-1], f"\\u{ord(char):{case}}")
    return written


def _any_of(texts: list[str]) -> str:
    """A pattern for the longest of *texts*, which are sorted; it looks at a place of a text once for all that begin alike."""
    if len(texts) == 1:
        return re.escape(texts[0])
    if texts[0] == "":
        return f"(?:{_any_of(texts[1:])})?"
    branches = [re.escape(first) + _any_of([each[1:] for each in alike]) for first, alike in groupby(texts, itemgetter(0))]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def hidden(text: str, spellings: Spellings) -> str:
    """*text* with `***` in place of each of *spellings*, also where only a long beginning of it is there."""
    found = [*_found(text, spellings)]
    if "&" in text:  # each may be longer as HTML reads it, or as it is, where a credential has a reference in it
        found = sorted([*found, *_found_in_html(text, spellings)])
    parts, at = [], 0
    for start, end in found:
        if start >= at:
            parts += [text[at:start], HIDDEN]
        at = max(at, end)
    return "".join(parts) + text[at:] if parts else text


def _found(text: str, spellings: Spellings) -> Iterator[tuple[int, int]]:
    """From where to where something is in *text* that is looked for."""
    at = 0
    while found := spellings.beginning.search(text, at):
        place, end = found.span()
        at = place + _longest(text, place, spellings.texts) if end - place == _BEGINNING else end
        yield place, at


def _found_in_html(text: str, spellings: Spellings) -> Iterator[tuple[int, int]]:
    """The same, of what *text* reads as in HTML."""
    parts, at, size = [], 0, 0
    places, longer = list[int](), [0]  # of the references in what is read, and by how much they are longer than that
    for reference in _REFERENCE.finditer(text):
        char = _referred(reference)
        if len(char) == 1:
            start, end = reference.span()
            parts += [text[at:start], char]
            size += start - at + 1
            places.append(size - 1)
            longer.append(longer[-1] + end - start - 1)
            at = end
    if places:
        for start, end in _found("".join(parts) + text[at:], spellings):
            yield start + longer[bisect_left(places, start)], end + longer[bisect_left(places, end)]


def _referred(reference: re.Match[str]) -> str:
    """What a *reference* stands for; nothing, where that is no character."""
    decimal, hexadecimal, name = reference.groups()
    if name is not None:
        return html5.get(f"{name};", "")
    number = int(hexadecimal, 16) if decimal is None else int(decimal)
    return chr(number) if number <= sys.maxunicode else ""


def _longest(text: str, at: int, spellings: list[str]) -> int:
    """How many characters of *text* from *at* on are those of a spelling: one of the two between which they would stand."""
    place = bisect_right(spellings, text[at:])
    return max([_agree(text, at, each) for each in spellings[max(0, place - 1) : place + 1]])


def _agree(text: str, at: int, spelling: str) -> int:
    """How many characters of *text* from *at* on are of *spelling*, if its beginning is: doubling, then halving, tells."""
    if not text.startswith(spelling[:_BEGINNING], at):
        return 0
    size = _BEGINNING
    while 2 * size < len(spelling) and text.startswith(spelling[: 2 * size], at):
        size *= 2
    longer = range(size + 1, min(2 * size, len(spelling)) + 1)
    return size + bisect_left(longer, True, key=lambda more: not text.startswith(spelling[:more], at))
