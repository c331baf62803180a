"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

CONFIG = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "pytest_asyncio":
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
import pytest

sys.exit(pytest.main(["-p", "no:asyncio", "-p", "no:anyio", "-p", "no:cov"]))
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """An empty project that has pytest-asyncio."""
    pytester.makefile(".ini", pytest=CONFIG)
    return pytester


def test_engine_and_receiver(project: pytest.Pytester) -> None:
    """A delivery is retried and arrives verified, in a test of a handful of lines."""
    project.makepyfile(
        """
        async def test_order(webhook_engine, webhook_receiver):
            receiver = await webhook_receiver([500, 200])
            subscription = await webhook_engine.subscribe(receiver.url, retry_schedule=["1ms"])
            receiver.secret = subscription.secret
            event = await webhook_engine.publish("order.created", {"id": 1})
            [delivery] = await webhook_engine.wait(event.id, timeout=10)

            assert ("delivered", 2) == (delivery.state, delivery.attempt_count)
            assert [True, True] == [request.verified for request in receiver.requests]

        async def test_two_receivers(webhook_receiver):
            first, second = await webhook_receiver(), await webhook_receiver(204, host="127.0.0.2")
            assert first.url != second.url

        async def test_an_engine_of_its_own(webhook_engine):
            assert [] == (await webhook_engine.subscriptions()).data
        """
    )

    project.runpytest_inprocess().assert_outcomes(passed=3)


def test_what_is_in_flight_is_cut(project: pytest.Pytester) -> None:
    """A receiver that never answers does not hold up the end of a test."""
    project.makepyfile(
        """
        import asyncio

        async def test_hangs(webhook_engine, webhook_receiver):
            receiver = await webhook_receiver(lambda _: asyncio.get_running_loop().create_future())
            await webhook_engine.subscribe(receiver.url)
            await webhook_engine.publish("order.created", {"id": 1})
            await receiver.wait(1, timeout=10)
        """
    )

    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    assert result.duration < 10


def test_plugin_is_found_and_costs_nothing(project: pytest.Pytester) -> None:
    """Installed with the package, it is loaded by itself, and loads the engine only for who asks."""
    project.makepyfile(
        """
        import sys

        def test_nothing(request):
            assert request.config.pluginmanager.has_plugin("hookengine")
            assert "aiohttp" not in sys.modules and "hookengine.engine" not in sys.modules
        """
    )

    project.runpytest_subprocess("-p", "no:cov").assert_outcomes(passed=1)


def test_without_pytest_asyncio_pytest_tells(project: pytest.Pytester) -> None:
    """Where nothing runs asynchronous fixtures, the tests that need none pass, and the others say what is missing."""
    project.makefile(".ini", pytest="")
    project.makepyfile(
        """
        def test_plain():
            pass

        async def test_asked(webhook_engine):
            pass
        """
    )
    project.makeconftest("")

    result = project.runpython_c(WITHOUT)

    assert "1 passed" in result.stdout.str()
    assert "async" in result.stdout.str()
