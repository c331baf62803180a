"""How often somebody may do something, and how much may be in hand at the same time."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv6Address, ip_address

from hookengine.errors import Overloaded

_KNOWN = 4096  # of whom a limit remembers; who has done nothing for longest is forgotten first
_SITE = 64  # bits of an IPv6 address that tell one site from another: RFC 6177


class Limit:
    """
    At most *most* things in each *period* (s), by each of many: at once, or spread over it; with 0, any number.

    It is the generic cell rate algorithm: of each it keeps one number, the time at which nothing will count any more.
    """

    def __init__(self, most: int, period: float, *, known: int = _KNOWN) -> None:
        self._each = period / most if most else 0.0
        self._period = period
        self._known = known
        self._even_at: dict[str, float] = {}  # oldest first

    def wait(self, who: str, now: float) -> float:
        """The seconds until *who* may do one more; 0 where that is now."""
        if not self._each:
            return 0.0
        # What rounding adds up to must not make the last one wait.
        return max(0.0, self._even_at.get(who, now) - now - self._period + self._each - self._each / 1000)

    def count(self, who: str, now: float, times: int = 1) -> None:
        """Note that *who* did it, or with *times* below 0 that it does not count; more than were left are waited off."""
        if not self._each:
            return
        even_at = max(now, self._even_at.pop(who, now)) + times * self._each
        if len(self._even_at) >= self._known:
            del self._even_at[next(iter(self._even_at))]
        self._even_at[who] = even_at


class InHand:
    """
    The bytes of the bodies of requests that are not answered yet: at most *most*, or a single larger one.

    What is made of a body takes three to four times its bytes, so this is what bounds memory. Whoever is bound to one tenant
    has at most half of it, together with all others who are, so that no tenant keeps the rest from being heard.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._of_tenants: Counter[str] = Counter()

    def take(self, room: Room, more: int) -> None:
        """Let *room* have so many bytes *more*; raises Overloaded where there are none."""
        others, theirs = self._taken - room.size, self._of_tenants[room.tenant or ""] - room.size
        is_too_much = others and self._taken + more > self._most
        if is_too_much or (room.tenant is not None and theirs and theirs + room.size + more > self._most // 2):
            raise Overloaded("the requests that are being answered are as large as memory admits")
        self._add(room, more)

    def give_back(self, room: Room) -> None:
        """The request that has *room* is answered."""
        self._add(room, -room.size)

    def _add(self, room: Room, more: int) -> None:
        self._taken += more
        room.size += more
        if room.tenant is not None:
            self._of_tenants[room.tenant] += more
            if not self._of_tenants[room.tenant]:
                del self._of_tenants[room.tenant]


class Room:
    """What the body of one request has of it: by who asks, which is bound to a *tenant*, or to none."""

    __slots__ = ("size", "tenant")

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.size = 0  # bytes; changed by `InHand` alone


def site_of(address: str | None) -> str:
    """Whom a client's *address* stands for: itself, or with IPv6 its network, in which it has as many as it likes."""
    try:
        found = ip_address((address or "").partition("%")[0])
    except ValueError:
        return ""  # not an IP connection
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> (128 - _SITE) << (128 - _SITE)))
