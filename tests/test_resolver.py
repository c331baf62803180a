"""Tests of hookengine.resolver; the lookup function is the tests' own, so nothing asks a real name server."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.abc import ResolveResult

from hookengine.models import ErrorCode
from hookengine.resolver import LookupFailed, Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Entry = tuple[int, int, int, str, tuple[Any, ...]]

THREADS = 32


class Forbidden(Exception):
    """What the gate of these tests raises."""


class ShiftedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set forward."""

    ahead = 0.0

    def time(self) -> float:
        """Seconds, with what was skipped."""
        return super().time() + self.ahead


class Names:
    """A scripted getaddrinfo: what each name answers, and which names hang until they are let go."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Entry] | Exception] = {}
        self.asked: list[str] = []
        self._holds: dict[str, tuple[threading.Event, threading.Event]] = {}

    def hang(self, host: str) -> None:
        """Let lookups of *host* hang."""
        self._holds[host] = (threading.Event(), threading.Event())

    async def reached(self, host: str) -> None:
        """Return when a thread hangs in *host*."""
        assert await asyncio.to_thread(self._holds[host][0].wait, 10)

    def let_go(self, host: str | None = None) -> None:
        """Let *host*, or all that hang, answer."""
        for name, (_, free) in self._holds.items():
            if host in (None, name):
                free.set()

    def __call__(self, host: str, *_: Any, **__: Any) -> list[Entry]:
        """What the name was given."""
        self.asked.append(host)
        if host in self._holds:
            arrived, free = self._holds[host]
            arrived.set()
            assert free.wait(30)
        answer = self.answers.get(host, addresses("1.1.1.1"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def names() -> Iterator[Names]:
    """Scripted names, whose threads are let go at the end."""
    names = Names()
    yield names
    names.let_go()


def addresses(*found: str) -> list[Entry]:
    """What getaddrinfo returns for these addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in found
    ]


def public_only(address: str, port: int) -> None:
    """A gate that knows one private address, and one forbidden port."""
    if address == "10.0.0.1" or port == 25:
        raise Forbidden


def run(scenario: Callable[[ShiftedLoop, Resolver], Coroutine[Any, Any, None]], names: Callable[..., Any]) -> None:
    """Run *scenario* with a resolver, in a loop whose clock it may set forward."""
    loop = ShiftedLoop()

    async def whole() -> None:
        resolver = Resolver(public_only, lookup=names)
        await scenario(loop, resolver)
        await resolver.close()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(whole())


def ask(resolver: Resolver, host: str, port: int = 443) -> asyncio.Task[list[ResolveResult]]:
    """Begin to resolve as a caller of its own."""
    return asyncio.create_task(resolver.resolve(host, port, socket.AF_UNSPEC))


async def turn() -> None:
    """Let all that can go on now go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def answer_to(task: asyncio.Task[list[ResolveResult]]) -> list[str] | ErrorCode:
    """The addresses that a caller got, or the error code."""
    done, _ = await asyncio.wait({task}, timeout=10)
    assert done, "the caller still waits"
    failure = task.exception()
    if isinstance(failure, LookupFailed):
        return failure.error
    return [found["host"] for found in task.result()]


async def test_answer(names: Names) -> None:
    """An answer has each address once, in the order of libc, in the form that aiohttp dials."""
    names.answers["hooks.acme.com"] = addresses("2606:4700::1", "1.1.1.1", "2606:4700::1")
    resolver = Resolver(public_only, lookup=names)
    found = await resolver.resolve("HOOKS.acme.com", 443, socket.AF_UNSPEC)
    await resolver.close()

    assert ["hooks.acme.com"] == names.asked
    assert [
        ResolveResult(
            hostname="hooks.acme.com",
            host=host,
            port=443,
            family=family,
            proto=0,
            flags=socket.AI_NUMERICHOST,
        )
        for host, family in (("2606:4700::1", socket.AF_INET6), ("1.1.1.1", socket.AF_INET))
    ] == found


async def test_libc_is_asked_for_streams_only() -> None:
    """The lookup function gets host, port, family, and hints that leave out unusable families."""
    asked = []

    def lookup(*args: Any, **options: Any) -> list[Entry]:
        asked.append((args, options))
        return addresses("1.1.1.1")

    resolver = Resolver(public_only, lookup=lookup)
    await resolver.resolve("hooks.acme.com", 8443, socket.AF_INET)
    await resolver.close()
    hints = {"family": socket.AF_INET, "type": socket.SOCK_STREAM, "flags": socket.AI_ADDRCONFIG}

    assert [(("hooks.acme.com", 8443), hints)] == asked


async def test_libc_is_the_default() -> None:
    """Without a lookup function of the caller's libc is asked, here for an address, which needs no name server."""
    resolver = Resolver(public_only)
    found = await resolver.resolve("127.0.0.1", 80, socket.AF_INET)
    await resolver.close()

    assert ["127.0.0.1"] == [address["host"] for address in found]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, ""), ErrorCode.DNS_NXDOMAIN, id="EAI_NONAME"),
        pytest.param(socket.gaierror(socket.EAI_NODATA, ""), ErrorCode.DNS_NXDOMAIN, id="EAI_NODATA"),
        pytest.param(socket.gaierror(socket.EAI_ADDRFAMILY, ""), ErrorCode.DNS_NO_ADDRESS, id="EAI_ADDRFAMILY"),
        pytest.param(socket.gaierror(socket.EAI_AGAIN, ""), ErrorCode.DNS_TEMPORARY, id="EAI_AGAIN"),
        pytest.param(socket.gaierror(socket.EAI_FAIL, ""), ErrorCode.DNS_TEMPORARY, id="EAI_FAIL"),
        pytest.param(socket.gaierror(socket.EAI_MEMORY, ""), ErrorCode.LOCAL_RESOURCES, id="EAI_MEMORY"),
        pytest.param(socket.gaierror("without a number"), ErrorCode.DNS_TEMPORARY, id="no_number"),
        pytest.param(OSError(errno.EMFILE, ""), ErrorCode.LOCAL_RESOURCES, id="EMFILE"),
        pytest.param(OSError(errno.EMSGSIZE, ""), ErrorCode.DNS_TEMPORARY, id="EMSGSIZE"),
        pytest.param(UnicodeError("label too long"), ErrorCode.INVALID_URL, id="UnicodeError"),
        pytest.param([], ErrorCode.DNS_NO_ADDRESS, id="SR12"),
        pytest.param([(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (10, b""))], ErrorCode.DNS_NO_ADDRESS, id="no_ipv6"),
    ],
)
async def test_failures(names: Names, answer: list[Entry] | Exception, error: ErrorCode) -> None:
    """Whatever libc says against a name becomes an error of ours with the code that an attempt reports."""
    names.answers["hooks.acme.com"] = answer
    resolver = Resolver(public_only, lookup=names)
    with pytest.raises(LookupFailed) as caught:
        await resolver.resolve("hooks.acme.com")
    await resolver.close()

    assert error == caught.value.error
    assert caught.value.detail.endswith(".")


@pytest.mark.parametrize("host", ["hooks..acme.com", f"{'a' * 64}.com", "\ud800.com"])
@pytest.mark.row("R64")
async def test_impossible_names(host: str) -> None:
    """A name that cannot be looked up ends in an error of ours, from the real getaddrinfo too."""
    resolver = Resolver(public_only)
    with pytest.raises(LookupFailed) as caught:
        await resolver.resolve(host)
    await resolver.close()

    assert ErrorCode.INVALID_URL == caught.value.error
    assert resolver.last_answer_at is None


@pytest.mark.row("SR13")
async def test_sr13(names: Names) -> None:
    """Of a thousand addresses the first 16 are given out."""
    many = [f"8.8.{n >> 8}.{n & 255}" for n in range(1000)]
    names.answers["hooks.acme.com"] = addresses(*many)
    resolver = Resolver(public_only, lookup=names)
    found = await answer_to(ask(resolver, "hooks.acme.com"))
    await resolver.close()

    assert many[:16] == found


@pytest.mark.parametrize(
    ("answer", "port"),
    [
        (["10.0.0.1"], 443),
        (["1.1.1.1", "10.0.0.1"], 443),
        ([*(f"8.8.8.{n}" for n in range(99)), "10.0.0.1"], 443),
        (["1.1.1.1"], 25),
    ],
)
async def test_one_refused_address_refuses_the_answer(names: Names, answer: list[str], port: int) -> None:
    """An answer in which the gate refuses any address, also one past the sixteenth, is refused whole."""
    names.answers["hooks.acme.com"] = addresses(*answer)
    resolver = Resolver(public_only, lookup=names)
    for _ in range(2):
        with pytest.raises(Forbidden):
            await resolver.resolve("hooks.acme.com", port)
    await resolver.close()

    assert ["hooks.acme.com"] == names.asked
    assert resolver.last_answer_at is not None


async def test_other_errors_pass(names: Names) -> None:
    """A fault in the lookup function itself is not taken for an answer of DNS."""
    names.answers["hooks.acme.com"] = TypeError("a fault")
    resolver = Resolver(public_only, lookup=names)
    with pytest.raises(TypeError, match="a fault"):
        await resolver.resolve("hooks.acme.com")
    await resolver.close()


async def test_callers_share_a_lookup(names: Names) -> None:
    """Callers for the same host, port and family wait for one lookup; another port is another lookup."""
    names.hang("hooks.acme.com")
    resolver = Resolver(public_only, lookup=names)
    callers = [ask(resolver, host) for host in ("hooks.acme.com", "HOOKS.ACME.COM") * 10]
    await names.reached("hooks.acme.com")
    callers.append(ask(resolver, "hooks.acme.com", 8443))
    await turn()
    names.let_go()

    assert [["1.1.1.1"]] * 21 == [await answer_to(caller) for caller in callers]
    assert ["hooks.acme.com"] * 2 == names.asked
    await resolver.close()


async def test_cancelled_caller_leaves_the_lookup_to_the_others(names: Names) -> None:
    """Cancelling a caller, the first one too, ends its wait at once and nobody else's."""
    names.hang("hooks.acme.com")
    resolver = Resolver(public_only, lookup=names)
    first, second = ask(resolver, "hooks.acme.com"), ask(resolver, "hooks.acme.com")
    await names.reached("hooks.acme.com")
    first.cancel()
    await turn()
    assert first.cancelled()
    assert not second.done()
    names.let_go()

    assert ["1.1.1.1"] == await answer_to(second)
    assert ["hooks.acme.com"] == names.asked
    await resolver.close()


async def test_hanging_lookups_do_not_delay_others(names: Names) -> None:
    """While 31 names hang, another one is answered."""
    resolver = Resolver(public_only, lookup=names)
    dead = [f"dead{n}.acme.com" for n in range(THREADS - 1)]
    for host in dead:
        names.hang(host)
    callers = [ask(resolver, host) for host in dead]
    for host in dead:
        await names.reached(host)

    assert ["1.1.1.1"] == await answer_to(ask(resolver, "hooks.acme.com"))
    assert not any(caller.done() for caller in callers)
    await resolver.close()
    assert {ErrorCode.LOCAL_RESOURCES} == {await answer_to(caller) for caller in callers}


def test_deadline(names: Names) -> None:
    """After 3 s callers stop waiting, later ones fail at once for a while, and a late answer is still of use."""
    names.hang("hooks.acme.com")

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        caller = ask(resolver, "hooks.acme.com")
        await names.reached("hooks.acme.com")
        loop.ahead += 2.5
        await turn()
        assert not caller.done()
        joined = ask(resolver, "hooks.acme.com")
        loop.ahead += 0.6
        await turn()
        assert caller.done()
        assert await answer_to(caller) == await answer_to(joined) == ErrorCode.DNS_TEMPORARY
        assert resolver.last_answer_at is None

        refused = ask(resolver, "hooks.acme.com")
        await turn()
        assert refused.done()
        assert await answer_to(refused) == ErrorCode.DNS_TEMPORARY

        # The lookup hangs still: the next caller waits for the same one.
        loop.ahead += 5.1
        patient = ask(resolver, "hooks.acme.com")
        await turn()
        assert not patient.done()
        names.let_go()
        assert ["1.1.1.1"] == await answer_to(patient)
        assert ["1.1.1.1"] == await answer_to(ask(resolver, "hooks.acme.com"))
        assert ["hooks.acme.com"] == names.asked
        assert resolver.last_answer_at is not None

    run(scenario, names)


def test_answer_in_the_turn_of_the_deadline(names: Names) -> None:
    """When the answer and the deadline come in one turn of the event loop, the first counts and the other does nothing."""
    names.hang("hooks.acme.com")

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        caller = ask(resolver, "hooks.acme.com")
        await names.reached("hooks.acme.com")
        faults: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, fault: faults.append(fault))
        # Nothing of the loop runs between these lines: what the thread hands over and the timer fall due together.
        names.let_go()
        (running,) = resolver._running.values()
        running.result(10)
        resolver._threads.submit(int).result(10)
        loop.ahead += 3.1
        assert ["1.1.1.1"] == await answer_to(caller)
        await turn()
        assert [] == faults

    run(scenario, names)


def test_late_answer_is_kept(names: Names) -> None:
    """An answer that comes after everybody stopped waiting replaces the failure."""
    names.hang("hooks.acme.com")

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        caller = ask(resolver, "hooks.acme.com")
        await names.reached("hooks.acme.com")
        loop.ahead += 3.1
        assert await answer_to(caller) == ErrorCode.DNS_TEMPORARY
        # The threads work in turn, so when a name asked later is answered, the late answer has been handed over.
        names.let_go()
        async with asyncio.timeout(10):
            while resolver.last_answer_at is None:
                await answer_to(ask(resolver, "hooks.acme.com"))
        assert ["1.1.1.1"] == await answer_to(ask(resolver, "hooks.acme.com"))
        assert ["hooks.acme.com"] == names.asked

    run(scenario, names)


def test_lookup_that_waited_for_a_thread_too_long_is_dropped(names: Names) -> None:
    """A name behind 32 hanging ones fails at its deadline and is not asked for afterwards."""
    dead = [f"dead{n}.acme.com" for n in range(THREADS)]
    for host in dead:
        names.hang(host)

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        callers = [ask(resolver, host) for host in dead]
        for host in dead:
            await names.reached(host)
        queued = ask(resolver, "hooks.acme.com")
        await turn()
        loop.ahead += 3.1
        await turn()
        assert {ErrorCode.DNS_TEMPORARY} == {await answer_to(caller) for caller in (*callers, queued)}
        assert "hooks.acme.com" not in names.asked

        # With threads free again the next in line is asked for, and the dropped one only when it is wanted.
        loop.ahead += 5.1
        names.let_go()
        assert ["1.1.1.1"] == await answer_to(ask(resolver, "other.acme.com"))
        assert "hooks.acme.com" not in names.asked
        assert ["1.1.1.1"] == await answer_to(ask(resolver, "hooks.acme.com"))

    run(scenario, names)


def test_name_that_finds_no_thread_stays_where_it_was(names: Names) -> None:
    """However many names hang, one that had an address has it still: it has waited for us, and not for its name servers."""
    dead = [f"dead{n}.acme.com" for n in range(THREADS)]
    for host in dead:
        names.hang(host)

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        assert ["1.1.1.1"] == await answer_to(ask(resolver, "hooks.acme.com"))
        callers = [ask(resolver, host) for host in dead]
        for host in dead:
            await names.reached(host)
        loop.ahead += 31
        queued = ask(resolver, "hooks.acme.com")
        await turn()
        loop.ahead += 3.1
        assert ["1.1.1.1"] == await answer_to(queued)
        assert ["hooks.acme.com", *sorted(dead)] == [names.asked[0], *sorted(names.asked[1:])]
        await asyncio.wait(callers)

    run(scenario, names)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        pytest.param(addresses("1.1.1.1"), 30, id="addresses"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, ""), 5, id="failure"),
        pytest.param(addresses("10.0.0.1"), 5, id="refused"),
        pytest.param(OSError(errno.EMFILE, ""), 0, id="local"),
    ],
)
def test_answers_are_kept_for_a_while(names: Names, answer: list[Entry] | Exception, kept: int) -> None:
    """An answer is given again without a lookup for 30 s, a failure for 5 s, one of our own not at all."""
    names.answers["hooks.acme.com"] = answer

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        async def lookups() -> int:
            await asyncio.wait({ask(resolver, "hooks.acme.com")}, timeout=10)
            return len(names.asked)

        assert await lookups() == 1
        if kept:
            loop.ahead += kept - 1
            assert await lookups() == 1
            loop.ahead += 1.1
        assert await lookups() == 2

    run(scenario, names)


def test_kept_answers_are_bounded(names: Names) -> None:
    """No more than 1,024 answers are kept, the newest."""

    async def scenario(_: ShiftedLoop, resolver: Resolver) -> None:
        for n in range(1025):
            await resolver.resolve(f"h{n}.acme.com")
        assert len(names.asked) == 1025
        await resolver.resolve("h1024.acme.com")
        await resolver.resolve("h1.acme.com")
        assert len(names.asked) == 1025
        await resolver.resolve("h0.acme.com")
        assert len(names.asked) == 1026
        assert len(resolver._kept) == 1024

    run(scenario, names)


def test_renewed_answer_is_the_newest(names: Names) -> None:
    """An answer that was looked up again is dropped later than those from before."""

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        for n in range(1023):
            await resolver.resolve(f"h{n}.acme.com")
        loop.ahead += 31
        for host in ("h0.acme.com", "h1023.acme.com", "h1024.acme.com"):
            await resolver.resolve(host)
        names.asked.clear()
        await resolver.resolve("h0.acme.com")
        assert [] == names.asked

    run(scenario, names)


@pytest.mark.parametrize(
    ("answer", "answered"),
    [
        pytest.param(addresses("1.1.1.1"), True, id="addresses"),
        pytest.param(addresses("10.0.0.1"), True, id="refused"),
        pytest.param([], True, id="no_address"),
        pytest.param(socket.gaierror(socket.EAI_NONAME, ""), True, id="nxdomain"),
        pytest.param(socket.gaierror(socket.EAI_AGAIN, ""), False, id="temporary"),
        pytest.param(OSError(errno.EMFILE, ""), False, id="local"),
        pytest.param(UnicodeError(""), False, id="never_sent"),
    ],
)
def test_last_answer(names: Names, answer: list[Entry] | Exception, answered: bool) -> None:
    """The time of the last answer moves with every answer, also a negative one, and not with silence."""
    names.answers["hooks.acme.com"] = answer

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        assert resolver.last_answer_at is None
        await resolver.resolve("other.acme.com")
        first = resolver.last_answer_at
        assert first is not None
        loop.ahead += 100
        await asyncio.wait({ask(resolver, "hooks.acme.com")}, timeout=10)
        assert answered == (resolver.last_answer_at >= first + 100)

    run(scenario, names)


# Whether name servers answer at all.


@pytest.mark.parametrize(
    ("known", "answer", "answers"),
    [
        pytest.param([], addresses("1.1.1.1"), False, id="no name is known"),
        pytest.param(["hooks.acme.com"], addresses("1.1.1.1"), False, id="only the name itself"),
        pytest.param(["HOOKS.acme.com."], addresses("1.1.1.1"), False, id="itself, written otherwise"),
        pytest.param(["other.acme.com"], addresses("1.1.1.1"), True, id="another"),
        pytest.param(["other.acme.com", "hooks.acme.com"], addresses("1.1.1.1"), True, id="another before it"),
        pytest.param(["other.acme.com"], addresses("10.0.0.1"), True, id="refused now"),
        pytest.param(["other.acme.com"], socket.gaierror(socket.EAI_NONAME, ""), True, id="gone"),
        pytest.param(["other.acme.com"], socket.gaierror(socket.EAI_AGAIN, ""), False, id="neither"),
        pytest.param(["other.acme.com"], OSError(errno.EMFILE, ""), False, id="local"),
    ],
)
async def test_another_name_tells_whether_name_servers_answer(
    names: Names, known: list[str], answer: list[Entry] | Exception, answers: bool
) -> None:
    """A name that had addresses before is asked for anew, and what is kept of it stays."""
    resolver = Resolver(public_only, lookup=names)
    for host in known:
        await resolver.resolve(host)
    names.answers["other.acme.com"] = names.answers["other.acme.com."] = answer
    asked = len(names.asked)
    for times in (1, 2):
        assert answers is await resolver.answers("hooks.acme.com")
        assert ["other.acme.com."] * times * ("other.acme.com" in known) == names.asked[asked:]
    for host in known:
        assert await resolver.resolve(host)
    await resolver.close()


def test_hanging_names_do_not_hide_that_name_servers_answer(names: Names) -> None:
    """The question has a thread of its own, is asked once for all who wait, and given up like any."""
    dead = [f"dead{n}.acme.com" for n in range(THREADS)]
    for host in dead:
        names.hang(host)

    async def scenario(loop: ShiftedLoop, resolver: Resolver) -> None:
        await resolver.resolve("other.acme.com")
        for host in dead:
            ask(resolver, host)
        for host in dead:
            await names.reached(host)
        assert await resolver.answers(dead[0])

        names.hang("other.acme.com.")
        waiting = [asyncio.create_task(resolver.answers(host)) for host in dead[:2]]
        await names.reached("other.acme.com.")
        await turn()
        assert not any(each.done() for each in waiting)
        loop.ahead += 3.1
        assert [False, False] == await asyncio.gather(*waiting)
        assert ["other.acme.com."] * 2 == names.asked[-2:]

    run(scenario, names)


async def test_tracebacks_do_not_grow(names: Names) -> None:
    """A kept failure that is raised many times does not collect the callers' tracebacks."""
    names.answers["hooks.acme.com"] = socket.gaierror(socket.EAI_NONAME, "")
    resolver = Resolver(public_only, lookup=names)
    lengths = set()
    for _ in range(10):
        with pytest.raises(LookupFailed) as caught:
            await resolver.resolve("hooks.acme.com")
        lengths.add(len(caught.traceback))
    await resolver.close()

    assert len(lengths) == 1


async def test_close_releases_callers(names: Names) -> None:
    """Closing ends the wait for a hanging lookup, and later calls fail as a fault of this machine."""
    names.hang("hooks.acme.com")
    resolver = Resolver(public_only, lookup=names)
    caller = ask(resolver, "hooks.acme.com")
    await names.reached("hooks.acme.com")
    await resolver.close()

    assert await answer_to(caller) == ErrorCode.LOCAL_RESOURCES
    assert await answer_to(ask(resolver, "hooks.acme.com")) == ErrorCode.LOCAL_RESOURCES
    assert await answer_to(ask(resolver, "other.acme.com")) == ErrorCode.LOCAL_RESOURCES
    names.let_go()
    await resolver.close()


def test_answer_after_the_loop_is_closed(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    """A lookup that comes back after the event loop has gone disturbs nobody."""
    names.hang("hooks.acme.com")
    threads = set(threading.enumerate())

    async def scenario(_: ShiftedLoop, resolver: Resolver) -> None:
        caller = ask(resolver, "hooks.acme.com")
        await names.reached("hooks.acme.com")
        assert not caller.done()

    run(scenario, names)
    names.let_go()
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)

    assert [] == caplog.records


async def test_threads_start_when_needed(names: Names) -> None:
    """A resolver that is only made and closed starts no thread."""
    before = set(threading.enumerate())
    resolver = Resolver(public_only, lookup=names)
    assert set() == set(threading.enumerate()) - before
    await resolver.resolve("hooks.acme.com")
    assert 1 == len(set(threading.enumerate()) - before)
    await resolver.close()


async def test_threads_are_bounded(names: Names) -> None:
    """However many names hang at the same time, no more threads wait for them than there are for lookups."""
    before = set(threading.enumerate())
    hosts = [f"dead{n}.acme.com" for n in range(THREADS + 8)]
    for host in hosts:
        names.hang(host)
    resolver = Resolver(public_only, lookup=names)
    callers = [asyncio.create_task(resolver.resolve(host)) for host in hosts]
    for host in hosts[:THREADS]:
        await names.reached(host)
    started = {thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("hookengine-lookup")}
    await resolver.close()
    names.let_go()
    await asyncio.gather(*callers, return_exceptions=True)

    assert THREADS == len(started)


HANGING = """
import asyncio, time
from hookengine.resolver import Resolver

async def main():
    resolver = Resolver(lambda *_: None, lookup=lambda *_, **__: time.sleep(60))
    asking = asyncio.create_task(resolver.resolve("hooks.acme.com"))
    await asyncio.sleep(0.1)
    await resolver.close()
    asking.cancel()

asyncio.run(main())
"""


async def test_hanging_lookup_does_not_hold_the_exit_up() -> None:
    """A process ends although a thread of it waits for a name server, which may take minutes."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGING)
    try:
        async with asyncio.timeout(20):
            assert 0 == await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
