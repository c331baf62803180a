"""The parameters of lists, and the pages that they give."""

from __future__ import annotations

import base64
import re
from collections import Counter
from heapq import nlargest
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import ValidationError, convert

from hookengine import views
from hookengine.errors import Invalid, Mistake
from hookengine.inputs import TypePattern
from hookengine.store import BEFORE_ALL, Slice
from hookengine.times import parse_time
from hookengine.validation import is_plain
from hookengine.wording import LONE_SURROGATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_ROWS = 250  # of one page

_NO_TEXTS = {"limit", "since", "until"}  # numbers and times, which a Python program may give as such

_CURSOR = re.compile(rb"before:([1-9][0-9]{0,18})")


class _Numbered(Protocol):
    @property
    def seq(self) -> int: ...


Numbered = TypeVar("Numbered", bound=_Numbered)


class Query:
    """The parameters of a list, or without *paged* those of one thing, with every mistake in them."""

    def __init__(self, given: Mapping[str, Any], known: set[str], *, paged: bool = True) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        known = known | ({"limit", "cursor"} if paged else set())
        self._mistakes = [
            Mistake(parameter=name[:100], code="unknown_parameter", detail="there is no such parameter")
            for name in self._given
            if name not in known
        ]
        # Over HTTP each is a text, and one that can be written.
        for name in self._given.keys() & (known - _NO_TEXTS):
            value = self._given[name]
            if not isinstance(value, str):
                self._wrong(name, "expected a string")
            elif not is_plain(str(value)):
                self._wrong(name, LONE_SURROGATE)
        for name, count in Counter(name for name, _ in given.items()).items():  # of a MultiDict
            if count > 1:
                self._wrong(name[:100], "expected the parameter once")

    def text(self, name: str) -> str | None:
        """A parameter as it is."""
        value = self._given.get(name)
        return value if isinstance(value, str) else None

    def choice(self, name: str, known: list[str]) -> str | None:
        """A parameter that is one of *known*."""
        value = self.text(name)
        if value is not None and value not in known:
            self._wrong(name, f"expected one of {', '.join(known)}")
        return value

    def patterns(self, name: str) -> tuple[str, ...] | None:
        """A parameter of patterns of event types, with commas between them."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return tuple(convert([text.strip() for text in value.split(",")], list[TypePattern]))
        except ValidationError:
            self._wrong(name, "expected event types such as 'order.created', 'order.*' or '*', with commas between them")
            return None

    def slice(self, tenant: str | None) -> Slice:
        """The part of the list that is asked for; raises Invalid with all mistakes."""
        part = Slice(
            limit=self._limit(), before=self._before(), tenant=tenant, since=self._time("since"), until=self._time("until")
        )
        self.raise_if_any()
        return part

    def raise_if_any(self) -> None:
        """Raise Invalid with all mistakes, if there are any."""
        if self._mistakes:
            raise Invalid(mistakes=tuple(self._mistakes))

    def _wrong(self, name: str, detail: str) -> None:
        self._mistakes.append(Mistake(parameter=name, code="invalid_value", detail=detail))

    def _limit(self) -> int:
        given = self._given.get("limit")
        if given is None:
            return 50
        text = self.text("limit") or ""
        if text.isascii() and text.isdigit() and len(text) < 4:  # digits
            given = int(text)
        if type(given) is int and 1 <= given <= MOST_ROWS:
            return given
        self._wrong("limit", f"expected 1 to {MOST_ROWS}")
        return 1

    def _before(self) -> int:
        cursor = self.text("cursor")
        if cursor is None:
            return BEFORE_ALL
        try:
            found = _CURSOR.fullmatch(base64.b64decode(cursor, altchars=b"-_", validate=True))
        except ValueError:  # no base64
            found = None
        if found is None or int(found[1]) > BEFORE_ALL:
            self._wrong("cursor", "expected a next_cursor of an earlier page")
            return BEFORE_ALL
        return int(found[1])

    def _time(self, name: str) -> int | None:
        value = self._given.get(name)
        if value is None:
            return None
        try:
            return parse_time(value if isinstance(value, str) else value.isoformat())
        except (ValueError, AttributeError) as error:
            self._wrong(name, str(error))
            return None


def newest(items: Iterable[Numbered], part: Slice) -> tuple[list[Numbered], int | None]:
    """Of what is kept in memory in any order, a page, newest first, and the key to go on from."""
    before = (item for item in items if item.seq < part.before)
    found = nlargest(part.limit + 1, before, key=lambda item: item.seq)
    return found[: part.limit], found[part.limit - 1].seq if len(found) > part.limit else None


def page(data: list[Any], after: int | None) -> views.Page[Any]:
    """A page whose next one starts before the row with key *after*; None on the last."""
    return views.Page(data=data, next_cursor=cursor_of(after))


def cursor_of(after: int | None) -> str | None:
    """What leads to the page that starts before the row with key *after*."""
    return None if after is None else base64.urlsafe_b64encode(f"before:{after}".encode()).decode()
