"""The engine: builds the parts, and owns the order of start and stop."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hookengine.access import LONGEST_TOKEN, OWNER, TOKEN_PREFIX, digest
from hookengine.api import Api
from hookengine.arguments import seconds
from hookengine.clock import Clock
from hookengine.config import Config
from hookengine.dispatcher import Dispatcher
from hookengine.errors import StartError
from hookengine.failpoints import failpoint
from hookengine.maintenance import Maintenance
from hookengine.message import Proxy
from hookengine.metrics import Metrics, Present
from hookengine.observers import (
    Fault,
    KeyChanged,
    LogObserver,
    MetricsObserver,
    NotConfigured,
    Observers,
    ProxyInUse,
    Waiters,
    host_logger,
)
from hookengine.profiles import batching
from hookengine.scheduler import Scheduler
from hookengine.sender import Sender
from hookengine.server import Server, bind
from hookengine.service import Service
from hookengine.store import Store, changes
from hookengine.store.database import Lock
from hookengine.stream import Ring
from hookengine.vault import write_private

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

    import structlog

    from hookengine.models import AccessToken, OAuth2, Subscription
    from hookengine.netguard import Policy
    from hookengine.observers import Happening
    from hookengine.server.listener import Door

DATABASE = "hooks.db"
TOKEN_FILE = "admin.token"  # noqa: S105  # its name, not its content

_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_TOKEN}}}")  # what a header takes


class Engine(Api):
    """
    One webhook sender on one SQLite file.

    A relative *path* is one of the directory that the process is in at this moment, whatever that becomes until `start`.
    *serve* is `HOST:PORT` of the HTTP API, which is not served without it. *logger* takes what happens; without one it goes to
    the standard library's logger `hookengine`, for the host program to configure. Nothing is opened before `start`. The
    methods raise the errors of `hookengine.errors`, and RuntimeError while the engine does not run.
    """

    # What a simulation has others of: time with randomness, and the network.
    _make_clock: Callable[[], Clock] = Clock
    _make_sender: Callable[..., Sender] = Sender

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        config: Config | None = None,
        serve: str | None = None,
        logger: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        if config is not None and not isinstance(config, Config):
            raise TypeError(f"config is a Config, such as Config.load() gives, not a {type(config).__name__}")
        self._path = Path(path).absolute()
        self._config = Config() if config is None else config
        self._serve = serve
        self._logger = logger
        self._supervisor: asyncio.Task[None] | None = None
        self._parts: _Parts | None = None
        self._stop_asked = asyncio.Event()
        self._drain = 0.0  # s, once a stop was asked for
        self._owner: int | None = None  # the process that started it: a fork must not use it
        self._loop: asyncio.AbstractEventLoop | None = None  # that it was started in

    @classmethod
    def from_file(
        cls,
        config: str | os.PathLike[str] | Config | None,
        *,
        data: str | os.PathLike[str],
        logger: structlog.typing.FilteringBoundLogger | None = None,
    ) -> Engine:
        """
        The daemon's engine: it serves the HTTP API at `server.listen` too.

        *config* is a TOML file, or what was read from one; *data* is a directory, made (0700) if need be.
        """
        chosen = config if isinstance(config, Config) else Config.load(config, environ=os.environ)
        folder = Path(data)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(f"the data directory {folder} cannot be made: {error.strerror}") from error
        return cls(folder / DATABASE, config=chosen, serve=chosen.server.listen, logger=logger)

    def __repr__(self) -> str:
        return f"<Engine {self._path} {'running' if self._parts else 'stopped'}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owner == _Process.id:  # a fork leaves the block too, at its end for instance
            await self.stop()

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Run for as long as a FastAPI or Starlette application does: `FastAPI(lifespan=engine.lifespan)`."""
        async with self:
            yield

    async def cleanup_ctx(self, _app: object) -> AsyncIterator[None]:
        """Run for as long as an aiohttp application does: `app.cleanup_ctx.append(engine.cleanup_ctx)`."""
        async with self:
            yield

    # Its life.

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    @property
    def is_new(self) -> bool:
        """Whether this start made the database."""
        return self._running.store.is_new

    @property
    def url(self) -> str | None:
        """Where the HTTP API is served."""
        server = self._running.server
        return None if server is None else server.url

    async def start(self) -> None:
        """Open the file and begin to deliver; raises StartError, such as AlreadyRunning, and leaves nothing open then."""
        self._check_process()
        if self._supervisor is not None and not self._supervisor.done():
            raise RuntimeError("the engine was started already")
        self._stop_asked = asyncio.Event()
        self._owner, self._loop = _Process.id, asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._supervisor = supervisor = asyncio.create_task(self._supervise(ready), name="hookengine")
        try:
            await asyncio.wait([ready, supervisor], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Where the stop is cancelled as well asyncio would complain that nobody has seen what ended it.
            supervisor.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            with suppress(Exception):
                if self._supervisor is supervisor:  # else it has failed, and that is another start's
                    await self.stop(drain=0)
            raise
        if not ready.done():
            if self._supervisor is supervisor:
                self._supervisor = None
            _raise_end(supervisor)

    async def stop(self, *, drain: float | None = None) -> None:
        """
        Stop in order, with *drain* seconds for the attempts in flight; again with less to be quicker. Twice does no harm.

        Raises what ended the engine, if it ended by itself.
        """
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._check_process()
        if not supervisor.done():
            self._check_loop()
        wanted = self._config.delivery.drain / 1000 if drain is None else seconds("drain", drain)
        self._drain = min(self._drain, wanted) if self._stop_asked.is_set() else wanted
        self._stop_asked.set()
        if self._parts is not None and self._parts.stopping:
            self._parts.dispatcher.stop(self._drain)
        try:
            await self.wait_stopped()
        finally:
            if self._supervisor is supervisor and supervisor.done():
                self._supervisor = None

    async def wait_stopped(self) -> None:
        """Return when the engine has stopped; raises what ended it, such as StorageFailed."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._check_process()
        if not supervisor.done():
            self._check_loop()
            await asyncio.wait([supervisor])
        if not supervisor.cancelled():  # as the end of its event loop does
            _raise_end(supervisor)

    async def _supervise(self, ready: asyncio.Future[None]) -> None:
        try:
            async with AsyncExitStack() as stack:
                self._parts = parts = await self._build(stack)
                try:
                    await self._run(parts, ready)
                except (KeyboardInterrupt, SystemExit) as cut:  # in a task of the group: from there the loop has raised it
                    raise _cut(cut) from cut
        except ExceptionGroup as failed:
            raise _first(failed) from None
        finally:
            self._parts = None

    async def _run(self, parts: _Parts, ready: asyncio.Future[None]) -> None:
        """Until a stop is asked for, and has taken its first four steps; raises, in a group, what ends it before."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(parts.store.failed(), name="hookengine-watch")
            work = [
                group.create_task(parts.dispatcher.run(), name="hookengine-dispatcher"),
                group.create_task(parts.maintenance.run(), name="hookengine-maintenance"),
            ]
            ready.set_result(None)
            await self._stop_asked.wait()
            self._stop(parts)
            await asyncio.wait(work)
            watch.cancel()

    async def _build(self, stack: AsyncExitStack) -> _Parts:
        """Every part in the order of need; the stack closes them in reverse."""
        config = self._config
        clock = self._make_clock()
        waiters = Waiters()
        stack.callback(waiters.close)  # once the store has told what it has recorded
        metrics = Metrics()
        ring = Ring(clock)
        observe = Observers(LogObserver(self._logger or host_logger()), waiters, MetricsObserver(metrics), ring)
        door = None
        if self._serve is not None:  # bound first, so that requests never go to ourselves, but not open yet
            door = await _bind(self._serve, self._path)
            stack.callback(door.close)
        policy = config.security.policy(own_addresses=() if door is None else door.addresses)
        store = self._new_store(clock)
        sender = self._new_sender(policy, clock, store)
        stack.push_async_callback(sender.close)
        scheduler = Scheduler(concurrency=config.delivery.concurrency, queue_size=config.delivery.queue_size)
        dispatcher = Dispatcher(
            scheduler=scheduler,
            sender=sender,
            clock=clock,
            profiles=config.profiles,
            observe=observe,
            payload_cache=config.delivery.payload_cache,
        )
        await store.open(dispatcher)
        stack.push_async_callback(store.close)
        metrics.known(store.memory.index)
        metrics.look = lambda: Present(
            in_flight=dispatcher.in_flight,
            window=scheduler.size,
            window_limit=config.delivery.queue_size,
            waiting=store.writer.waiting,
            paused=dispatcher.paused,
        )
        with store.starting():
            await dispatcher.load(store)
        for happening in _found(store, config):
            observe(happening)
        maintenance = Maintenance(store, retention=config.store.retention, observe=observe)
        observe.add(maintenance)
        service = Service(
            store,
            sender=sender,
            waiters=waiters,
            metrics=metrics,
            ring=ring,
            clock=clock,
            config=config,
            policy=policy,
            resume_at=scheduler.resume_at,
        )
        server = None
        if door is not None:
            tokens = store.memory.tokens
            tokens.admit(digest(_owner_token(self._path.with_name(TOKEN_FILE), clock)), OWNER)
            server = Server(service, tokens=tokens.principals, config=config)
            await server.start(door)
            stack.push_async_callback(server.close)
            stack.push_async_callback(sender.close)  # before it, so that whoever waits for a test is answered
        stack.callback(ring.close)
        failpoint("K25-built")
        return _Parts(store, dispatcher, maintenance, service, server)

    def _new_store(self, clock: Clock) -> Store:
        profiles = self._config.profiles

        def gathers(subscription: Subscription) -> bool:
            profile = profiles.get(subscription.profile)
            # Where it is gone it may be one with batches: what is accepted until it is back can still become some.
            return profile is None or batching(profile, subscription) is not None

        return Store(
            self._path,
            clock=clock,
            synchronous=self._config.store.synchronous,
            encryption_key=os.environ.get("HOOKENGINE_ENCRYPTION_KEY"),
            gathers=gathers,
        )

    def _new_sender(self, policy: Policy, clock: Clock, store: Store) -> Sender:
        """The sender, whose access tokens are kept in *store*."""

        def kept(subscription: int, auth: OAuth2) -> AccessToken | None:
            return store.memory.access_token(subscription, auth)

        async def keep(subscription: int, auth: OAuth2, token: AccessToken) -> None:
            await store.writer.change(changes.keep_access_token(subscription, auth, token))

        proxy = self._config.security.proxy
        return self._make_sender(
            policy,
            proxy=None if proxy is None else Proxy.of(proxy),
            most_resting=max(1, self._config.delivery.concurrency // 2),  # beside those in use; `doctor` reckons with both
            clock=clock,
            load=kept,
            save=keep,
        )

    def _stop(self, parts: _Parts) -> None:
        parts.stopping = True
        # 1. Nothing new is accepted; what is asked can still be answered.
        parts.service.refuse()
        # 2. Nothing more is taken; attempts in flight have the drain to end in, then they are cut and recorded as interrupted.
        parts.dispatcher.stop(self._drain)
        # 3. Upkeep ends with its present step.
        parts.maintenance.stop()
        failpoint("K26-stopping")
        # 4. The caller waits for these two. 5. The stack ends the live streams, cuts the tests under way, closes the server,
        # then the store: the writer commits what it was sent, folds the WAL into the file, and gives the lock back.

    def _check_process(self) -> None:
        # What has ended before the fork is nobody's.
        if self._owner != _Process.id and self._supervisor is not None and not self._supervisor.done():
            raise RuntimeError("this process is a fork of the one that started the engine: make an engine of its own")

    @property
    def _running(self) -> _Parts:
        self._check_process()
        if self._parts is None:
            if self._supervisor is not None and self._supervisor.done() and not self._supervisor.cancelled():
                _raise_end(self._supervisor)
            raise RuntimeError("the engine does not run: call start() first")
        return self._parts

    @property
    def _service(self) -> Service:
        service = self._running.service
        self._check_loop()
        return service

    def _check_loop(self) -> None:
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001  # what is awaited would be done, and nobody hear of it
            assert self._loop is not None  # noqa: S101  # start() has set it
            if self._loop.is_closed():
                raise RuntimeError(
                    "the event loop that the engine ran in was closed before stop(): its file is taken until this process ends"
                )
            raise RuntimeError(
                "the engine runs in another event loop: hand the call over by asyncio.run_coroutine_threadsafe()"
            )


class _Process:
    """Which process this is; asked for with every publish, and a system call each time would be a tenth of it."""

    id = os.getpid()

    @classmethod
    def forked(cls) -> None:
        """We are the child."""
        cls.id = os.getpid()


os.register_at_fork(after_in_child=_Process.forked)


class _Parts:
    """What runs between start and stop."""

    def __init__(
        self, store: Store, dispatcher: Dispatcher, maintenance: Maintenance, service: Service, server: Server | None
    ) -> None:
        self.store = store
        self.dispatcher = dispatcher
        self.maintenance = maintenance
        self.service = service
        self.server = server
        self.stopping = False


async def _bind(listen: str, path: Path) -> Door:
    """The sockets of *listen*; raises AlreadyRunning where they cannot be had and an engine has the database at *path*."""
    try:
        return await bind(listen)
    except StartError:
        with suppress(OSError):
            Lock(path).check()  # it mostly has the address too
        raise


def _found(store: Store, config: Config) -> Iterator[Happening]:
    """What somebody should know of a start."""
    if store.resealed:
        yield KeyChanged(count=store.resealed)
    if config.security.proxy is not None:
        yield ProxyInUse(url=str(Proxy.of(config.security.proxy).url))
    for found in (*store.unreadable, *store.doubts):
        yield Fault(where="start", error=str(found))
    for plan in sorted({t.plan for t in store.memory.tenants.values() if t.plan is not None} - config.plans.keys()):
        yield NotConfigured(where="tenants", error=f"no plan {plan!r}, which some are on: no limit")


def _owner_token(path: Path, clock: Clock) -> str:
    """The owner's token from its file (0600), made at the first start."""
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        token = TOKEN_PREFIX + clock.new_bytes(32).hex()
        write_private(path, token.encode() + b"\n")
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from error
    if not _TOKEN.fullmatch(token):
        raise StartError(f"{path} holds no token: delete it, and the next start makes one")
    return token


def _raise_end(supervisor: asyncio.Task[None]) -> None:
    """Raise what ended it, if anything; as an error what the event loop has raised already: once is enough."""
    try:
        supervisor.result()
    except (KeyboardInterrupt, SystemExit) as cut:
        raise _cut(cut) from cut


def _cut(cut: BaseException) -> RuntimeError:
    return RuntimeError(f"the engine was cut by {cut!r}")


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
