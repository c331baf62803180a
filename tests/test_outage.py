"""How faults of this machine are told from those of endpoints; what becomes of deliveries is in test_dispatcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from storage import DELIVERED, GONE, NO_ANSWER

from hookengine.models import AttemptError, Broken, ErrorCode, Interrupted, Unreachable
from hookengine.outage import Interruptions, Outage

if TYPE_CHECKING:
    from hookengine.models import Outcome


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(DELIVERED, 100, id="accepted"),
        pytest.param(GONE, 100, id="refused"),
        pytest.param(NO_ANSWER, 100, id="no answer"),
        *(
            pytest.param(Unreachable(error=AttemptError(code=code, detail="")), 800, id=code)
            for code in (
                ErrorCode.BLOCKED_ADDRESS,
                ErrorCode.SELF_CONNECTION,
                ErrorCode.INVALID_URL,
                ErrorCode.DNS_TEMPORARY,
                ErrorCode.AUTH_FAILED,
            )
        ),
        pytest.param(Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail="")), 800, id="broken"),
        pytest.param(Interrupted(), 800, id="cut"),
        pytest.param(Interrupted(error=AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="")), 1600, id="local"),
    ],
)
async def test_what_shows_that_requests_get_out(outcome: Outcome, expected: int) -> None:
    """Only an end that needs a working network shortens the next pause; only one of ours prolongs it."""
    told: list[Any] = []
    outage = Outage(told.append)
    for _ in range(3):
        outage._until = 0
        outage.begin("no route")
    outage._until = 0
    outage.weigh(outcome)
    outage._until = 0
    outage.begin("no route")

    assert [100, 200, 400, expected] == [each.pause for each in (*told[:3], told[-1])]


async def test_others_of_the_same_moment_are_no_further_fault() -> None:
    """A hundred attempts that fail together make one pause, which is told once and passes."""
    told: list[Any] = []
    outage = Outage(told.append)
    assert not outage.left
    for _ in range(100):
        outage.begin("no route")

    assert 1 == len(told)
    assert 0 < outage.left <= 0.1


async def test_who_is_kept_back_alone_is_told_of_now_and_then() -> None:
    """Of trouble that keeps back some, each for itself, one line in five seconds is enough; and nobody else waits."""
    told: list[Any] = []
    outage = Outage(told.append)
    outcome = Interrupted(error=AttemptError(code=ErrorCode.DNS_TEMPORARY, detail="no answer"), keeps_nobody_else=True)
    for _ in range(100):
        outage.weigh(outcome)

    assert [5_000] == [each.pause for each in told]
    assert not outage.left
    outage._told_until = 0
    outage.weigh(outcome)
    assert 2 == len(told)


def test_interruptions_are_recorded_once_a_second() -> None:
    """Of one delivery no two of a second are recorded, also after the clock was set back; none is remembered for longer."""
    known = Interruptions()

    assert [False, True, True, False] == [known.is_repetition(1, at) for at in (5_000, 5_000, 5_999, 6_000)]
    assert [False, True] == [known.is_repetition(1, at) for at in (10, 20)]
    known.forget(1)
    assert not known.is_repetition(1, 30)
    for number in range(10_000):
        assert not known.is_repetition(number + 2, 40 + number)
    assert len(known._recorded_at) <= 1_001
