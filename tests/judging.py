"""What is wrong with what users send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Raw

from hookengine import inputs, subscribing
from hookengine.inputs import EventInput, SubscriptionInput
from hookengine.netguard import Policy
from hookengine.profiles import PROFILES
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

NOW = 1_790_000_000_000
DAY = 86_400_000
URL = "https://example.com/hook"


def mistakes(
    check: Callable[[Problems, Any], None], type_: type[Struct], given: dict[str, Any]
) -> list[tuple[str | None, str]]:
    """Where *given* is wrong, by its form and by *check*."""
    problems = Problems()
    check(problems, problems.convert(type_, given))
    return [(mistake.pointer, mistake.code) for mistake in problems.mistakes]


def event_mistakes(now: int = NOW, **members: Any) -> list[tuple[str | None, str]]:
    """Where an event with *members* is wrong at *now*."""
    given = {"type": "a", "data": Raw(b"1")} | members
    return mistakes(lambda problems, draft: inputs.check_event(problems, draft, "", now=now), EventInput, given)


def subscription_mistakes(**members: Any) -> list[tuple[str | None, str]]:
    """Where a subscription with *members* is wrong."""

    def check(problems: Problems, draft: Any) -> None:
        subscribing.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")

    return mistakes(check, SubscriptionInput, {"url": URL} | members)
