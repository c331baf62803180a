"""Whether the storage takes writes, as failed commits and looks at the disk have shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookengine.errors import StorageUnavailable
from hookengine.store.faults import is_lock, is_want_of_room
from hookengine.store.space import EVERY

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.store.intake import Listener
    from hookengine.store.space import Space

_SHORTEST_REST = 0.1  # s after a failed commit, doubling to the longest
_LONGEST_REST = 2.0  # so that work goes on within 5 s of there being space


class Condition:
    """
    What the writer knows of its storage; *listener* hears whenever that turns.

    *now* is the time of the loop in s. *look_again* is called when events are refused for want of room, or no more: from then
    on, or no longer, the disk is looked at without anybody asking.
    """

    def __init__(self, space: Space, *, listener: Listener, now: Callable[[], float], look_again: Callable[[], None]) -> None:
        self.rest = 0.0  # s to wait before the next commit is tried; above 0 while commits fail
        self.is_short = False  # of room, as was last told
        self.lock: Exception | None = None  # another program's, for which the present turn has waited in vain
        self._space = space
        self._listener = listener
        self._now = now
        self._look_again = look_again
        self._probe_at = 0.0  # when a commit is tried without a need, while commits fail

    @property
    def wake_at(self) -> float | None:
        """When there is something to try or to look at, though nobody asks; None if never."""
        if self.rest:
            return self._probe_at
        return self._now() + EVERY if self.is_short else None

    @property
    def must_probe(self) -> bool:
        """Whether to try if commits work again, unless something waits that will show it."""
        return self.rest > 0 and self._now() >= self._probe_at

    def lack(self) -> StorageUnavailable | None:
        """What an event that comes now is refused with for want of room; None while there is some."""
        found = self._space.lack(self._now())
        lack = None if found is None else StorageUnavailable(f"the storage takes no events: {found}")
        if self.is_short != (lack is not None):
            self.is_short = lack is not None
            self._look_again()
            self._listener.room(lack)
        return lack

    def new_turn(self) -> None:
        """Another program's lock is waited for again."""
        self.lock = None

    def failed(self, error: Exception) -> None:
        """A commit has failed with *error*, which may pass."""
        self._listener.storage(error)
        if is_want_of_room(error):
            self._space.ran_out()
        if is_lock(error):
            self.lock = error
        self.rest = min(max(self.rest * 2, _SHORTEST_REST), _LONGEST_REST)
        self._probe_at = self._now() + self.rest

    def worked(self) -> None:
        """A commit has not failed; all is well again once there is room for the reserve, too."""
        if not self.rest:
            return
        if self._space.keep_reserve():
            self.rest = 0.0
            self._listener.storage(None)
        else:
            self._probe_at = self._now() + self.rest
