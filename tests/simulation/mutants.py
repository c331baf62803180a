"""Broken variants of the engine, each with one line of it undone: what the simulation is there to find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine import health, lanes, netguard, profiles, retry, scheduler, serving
from hookengine.models import DeliveryState, Rank, Standing
from hookengine.store import commits, writer

if TYPE_CHECKING:
    import pytest


def retries_early(patch: pytest.MonkeyPatch) -> None:
    """By a second."""
    failed_once = retry._failed_once
    patch.setattr(retry, "_failed_once", lambda *given, now, **named: failed_once(*given, now=now - 900, **named))


def gives_up_what_it_cut(patch: pytest.MonkeyPatch) -> None:
    """An attempt that a stop has cut counts as the last."""
    settle = retry.settle

    def mutant(delivery: Any, *given: Any, now: int, **named: Any) -> Any:
        after = settle(delivery, *given, now=now, **named)
        return retry._finished(delivery, DeliveryState.FAILED, now=now, tried=0) if after == delivery else after

    patch.setattr(retry, "settle", mutant)


def forgets_limits(patch: pytest.MonkeyPatch) -> None:
    """A subscription gets whatever slots are free."""
    patch.setattr(health, "restand", lambda *_, **__: Standing(width=99, rank=Rank.TRUSTED))
    patch.setattr(lanes.Lane, "full", property(lambda lane: lane.in_flight >= 99))


def disables_late(patch: pytest.MonkeyPatch) -> None:
    """After one failure more."""
    disables = health.disables
    patch.setattr(
        health,
        "disables",
        lambda known, *given, **named: disables(
            replace(known, consecutive_failures=known.consecutive_failures - 1), *given, **named
        ),
    )


def sends_while_disabled(patch: pytest.MonkeyPatch) -> None:
    """Its lane stays open, and its settings known."""
    target = serving.Serving.served
    known: dict[int, Any] = {}

    def mutant(self: Any, seq: int) -> Any:
        known[seq] = target(self, seq) or known.get(seq)
        return known[seq]

    patch.setattr(serving.Serving, "served", mutant)
    patch.setattr(scheduler.Scheduler, "close", lambda *_, **__: None)


def has_no_pace(patch: pytest.MonkeyPatch) -> None:
    """Rate limits are not kept."""
    patch.setattr(serving, "pace", lambda _: 0.0)


def dials_anything(patch: pytest.MonkeyPatch) -> None:
    """No address is refused."""
    patch.setattr(netguard, "_refusal", lambda *_: None)


def changes_bodies(patch: pytest.MonkeyPatch) -> None:
    """A retry has another body."""
    build = profiles.build

    def mutant(*given: Any, attempt: int, **named: Any) -> Any:
        request = build(*given, attempt=attempt, **named)
        return replace(request, body=request.body + b" " * attempt)

    patch.setattr(profiles, "build", mutant)


def answers_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    """A publisher hears that its event is on disk when it is not yet."""
    commit = commits.Commits.commit

    async def mutant(self: Any, results: Any, publications: Any) -> int:
        _, answers = await self._stage(results, publications)
        for publication, answer in answers:
            if not publication.done.done() and not isinstance(answer, Exception):
                publication.done.set_result(answer)
        return await commit(self, results, publications)

    patch.setattr(commits.Commits, "commit", mutant)


def loses_results(patch: pytest.MonkeyPatch) -> None:
    """Of ten attempts one is not recorded, and made again."""
    record = writer.Writer.record
    counter = iter(range(1_000_000))

    def mutant(self: Any, *results: Any) -> None:
        if next(counter) % 10 == 9:
            self._writing.listener._put_back(results[0].head or results[0].before)
        else:
            record(self, *results)

    patch.setattr(writer.Writer, "record", mutant)


MUTANTS = (
    retries_early,
    gives_up_what_it_cut,
    forgets_limits,
    disables_late,
    sends_while_disabled,
    has_no_pace,
    dials_anything,
    changes_bodies,
    answers_before_the_commit,
    loses_results,
)
