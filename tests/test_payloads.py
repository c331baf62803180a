"""The events of fresh deliveries in memory: kept as long as they are asked for, within the limit."""

from __future__ import annotations

from hookengine.models import Event
from hookengine.payloads import Payloads


def event(seq: int, size: int = 10) -> Event:
    """An event with *size* bytes of data."""
    return Event(seq=seq, id=f"evt_{seq}", tenant="t", type="a", data=b"x" * size, accepted_at=0, occurred_at=0)


def test_payload_is_forgotten_after_its_last_delivery() -> None:
    """An event is kept for as many deliveries as asked, and no longer."""
    payloads = Payloads(10_000)
    kept = event(1)
    payloads.keep(kept)
    payloads.keep(kept)

    assert [kept, kept, None] == [payloads.take(1) for _ in range(3)]


def test_payloads_stay_within_their_limit() -> None:
    """The oldest make room for the newest, each with all its deliveries."""
    payloads = Payloads(10_000)
    for seq in (1, 1, 2, 3):
        payloads.keep(event(seq, 4_000))

    assert [False, True, True] == [payloads.take(seq) is not None for seq in (1, 2, 3)]


def test_taken_payloads_make_room() -> None:
    """What was taken counts no more."""
    payloads = Payloads(10_000)
    for seq in range(100):
        payloads.keep(event(seq, 4_000))
        assert payloads.take(seq) is not None

    payloads.keep(event(100, 4_000))
    payloads.keep(event(101, 4_000))
    assert payloads.take(100) is not None


def test_payload_beyond_the_limit_is_not_kept() -> None:
    """One event larger than the whole cache pushes out itself, too."""
    payloads = Payloads(10_000)
    payloads.keep(event(1, 20_000))

    assert payloads.take(1) is None


def test_tiny_payloads_do_not_outgrow_the_limit() -> None:
    """What an event weighs beside its data counts: a million of two bytes each are no two megabytes."""
    payloads = Payloads(1 << 20)
    for seq in range(10_000):
        payloads.keep(event(seq, 2))

    assert 2_000 > sum(payloads.take(seq) is not None for seq in range(10_000))
