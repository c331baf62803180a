"""How the requests of one subscription are spaced, so that no window holds more of them than its rate limit."""

from __future__ import annotations


class Pace:
    """
    At least *interval* ms from one request to the next.

    A request takes its turn when it is taken from the queue (`take`), and another one may be taken an interval after it begins
    (`begin`). It goes at once (`send`), or later where something holds it up, such as the look-up of an address: then it asks
    for its turn once more (`put_off`), and the next one is spaced from when it goes.
    """

    __slots__ = ("_interval", "_last_taken", "_next_before", "_sent_at", "next_at")

    def __init__(self, interval: float, next_at: float = 0.0) -> None:
        self.next_at = next_at  # when the next may be taken
        self._interval = interval
        self._next_before = 0.0  # the same before the last was taken
        self._last_taken = 0  # which that is
        self._sent_at = 0.0  # when the last went, or goes

    def change(self, interval: float, next_at: float = 0.0) -> None:
        """From now on it is *interval*, also since the last one if that is longer; the next goes not before *next_at*."""
        self.next_at = max(self.next_at + max(0.0, interval - self._interval), next_at)
        self._interval = interval

    def take(self, seq: int, now: int) -> None:
        """Delivery *seq* takes its turn."""
        self._last_taken = seq
        self._next_before = self.next_at
        self.next_at = max(self.next_at, now) + self._interval

    def begin(self, now: int) -> None:
        """A request that has its turn begins now."""
        self.next_at = max(self.next_at, now + self._interval)

    def is_free(self, now: int) -> bool:
        """Whether a request may go at once: not so soon after one that was held up."""
        return now + 1 > self._sent_at + self._interval  # times are whole milliseconds

    def send(self, now: int) -> None:
        """A request goes now, which nothing has held up."""
        self._sent_at = max(self._sent_at, now)
        self.begin(now)

    def put_off(self, within: float, now: int) -> float | None:
        """
        A request was held up since it was taken: the ms that it still has to wait, so that no two go together.

        None, and it takes no turn, unless these are fewer than *within*.
        """
        goes_at = max(float(now), self._sent_at + self._interval)
        if goes_at - now >= within:
            return None
        self._sent_at = goes_at
        self.next_at = max(self.next_at, goes_at + self._interval)
        return goes_at - now

    def spare(self, seq: int) -> bool:
        """For delivery *seq* nothing was sent: whether its turn is given back, which it is if no other was taken since."""
        if self._last_taken != seq:
            return False
        self.next_at = min(self.next_at, self._next_before)
        return True

    def bound(self, now: int) -> None:
        """Nothing waits for longer than for the one before it: after the clock went back, or the limit was raised."""
        soonest = max(float(now), self._sent_at) + self._interval
        if self.next_at > soonest + 1:
            self.next_at = soonest

    def turn_back(self, now: int) -> None:
        """The clock has gone back to *now*: it holds nothing up for longer than one interval."""
        self.next_at = min(self.next_at, now + self._interval)
        self._sent_at = min(self._sent_at, now)
