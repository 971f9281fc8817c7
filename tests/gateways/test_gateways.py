"""The embedded model behind the programs that people put before one: `just long gateways`.

Needs nginx, haproxy and squid from apt, and LiteLLM's proxy (`pip install "litellm[proxy]"`, in an environment
of its own; `LITELLM` names its command). What is not there is skipped, and said so.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from returns.result import Success

from executionkit import (
    Outcome,
    Provider,
    RetryConfig,
    Stage,
    TokenUsage,
    complete,
    consensus,
    react,
    refine,
    select,
    structured,
    tool,
)
from executionkit.errors import LLMError, PermanentError, ProviderError
from executionkit.events import Event, TextDelta, with_content
from executionkit.providers.local import LocalProvider
from tests.faults.certificates import CERTIFICATE, trusting
from tests.foreign.processes import fetched, served
from tests.gateways.programs import LITELLM_KEY, haproxy, is_installed, litellm, nginx, squid, stalling

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        os.environ.get("EXECUTIONKIT_GATEWAYS") != "1", reason="a campaign: `just long gateways`"
    ),
]

ROUTES = [
    "relay",
    "nginx-buffering",
    "nginx-passing",
    "nginx-tls",
    "haproxy",
    "squid",
    "squid-connect",
    "litellm",
]
NO_RETRY = RetryConfig(max_retries=0)


RELAY = Path(__file__).with_name("relay.py")


class Gateways:
    """The programs that run, and a provider for each way through them."""

    def __init__(self, relay: int, make: dict[str, Callable[[], Provider]]) -> None:
        self._relay = relay
        self._make = make

    def provider(self, route: str, monkeypatch: pytest.MonkeyPatch) -> Provider:
        if route not in self._make:
            pytest.skip(f"the program of {route} is not installed")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        fetched(f"http://127.0.0.1:{self._relay}/reset")
        return self._make[route]()

    def check_counted(self, cost: TokenUsage) -> None:
        """Check that the ledger says what the server counted."""
        counted = fetched(f"http://127.0.0.1:{self._relay}/counted")
        assert [cost.llm_calls, cost.input_tokens, cost.output_tokens] == counted


@pytest.fixture(scope="module")
def gateways(model: LocalProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    complete(max_tokens=1).run_sync(model, "hello")
    address: str = getattr(model, "_open")()[0].address  # noqa: B009 - no part of the interface
    make: dict[str, Callable[[], Provider]] = {}

    def behind(port: int, path: str = "", scheme: str = "http", **settings: Any) -> Callable[[], Provider]:
        return lambda: Provider(
            f"{scheme}://127.0.0.1:{port}{path}/v1", "smol", default_max_tokens=24, timeout=120, **settings
        )

    with ExitStack() as stack:
        relay = stack.enter_context(served(sys.executable, RELAY, address))
        stall = stack.enter_context(stalling())
        make["relay"] = behind(relay)
        ports: dict[str, int] = {}
        if is_installed("nginx"):
            ports = stack.enter_context(nginx(tmp_path_factory.mktemp("nginx"), relay, stall))
            make["nginx-buffering"] = behind(ports["buffering"])
            make["nginx-passing"] = behind(ports["passing"])
            make["nginx-tls"] = behind(ports["tls"], scheme="https", tls=trusting(CERTIFICATE))
            make["nginx-dead"] = behind(ports["buffering"], "/dead")
            make["nginx-slow"] = behind(ports["buffering"], "/slow")
        if is_installed("haproxy"):
            port = stack.enter_context(haproxy(tmp_path_factory.mktemp("haproxy"), relay, stall))
            make["haproxy"] = behind(port)
            make["haproxy-dead"] = behind(port, "/dead")
            make["haproxy-slow"] = behind(port, "/slow")
        if is_installed("squid"):
            port = stack.enter_context(squid(tmp_path_factory.mktemp("squid")))
            through = pytest.MonkeyPatch()
            stack.callback(through.undo)
            for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
                through.setenv(name, f"http://127.0.0.1:{port}")
            make["squid"] = behind(relay, trust_env=True)
            make["squid-forbidden"] = behind(9, scheme="https", trust_env=True)
            make["squid-dead"] = behind(1, trust_env=True)
            if ports:
                tls = trusting(CERTIFICATE)
                make["squid-connect"] = behind(ports["tls"], scheme="https", tls=tls, trust_env=True)
        if is_installed("litellm"):
            port = stack.enter_context(litellm(tmp_path_factory.mktemp("litellm"), relay))
            make["litellm"] = behind(port, api_key=LITELLM_KEY)
        yield Gateways(relay, make)


def cost_of(outcome: Outcome[Any]) -> TokenUsage:
    ended: Any = outcome.unwrap() if isinstance(outcome, Success) else outcome.failure()
    cost: TokenUsage = ended.cost
    return cost


@tool
async def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"Sun in {city}."


PATTERNS: dict[str, Stage[str, Any]] = {
    "complete": complete(max_tokens=24),
    "consensus": consensus(3, max_tokens=48),
    "select": select(2, max_tokens=48),
    "refine": refine(lambda text: min(1.0, len(text) / 1000), max_iterations=2, max_tokens=24),
    "react": react([weather], max_rounds=2, max_tokens=48, on_limit="answer"),
    "structured": structured(int, max_tokens=24),
    "chain": complete(max_tokens=12) >> complete(max_tokens=12),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_every_pattern(
    gateways: Gateways, route: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateways.provider(route, monkeypatch) as provider:
        outcome = await PATTERNS[pattern].run(provider, "How is the weather in Bonn? Be short.")
    if not isinstance(outcome, Success):  # the model is a small one; the server is not to blame
        assert not isinstance(outcome.failure(), LLMError), outcome.failure()
    gateways.check_counted(cost_of(outcome))


@pytest.mark.parametrize("route", ROUTES)
async def test_a_stream(gateways: Gateways, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    async with gateways.provider(route, monkeypatch) as provider:
        stage = complete(max_tokens=24, stream=True)
        outcome = await stage.run(provider, "Count to twenty.", trace=with_content(events.append))
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert "".join(pieces) == outcome.unwrap().value
    assert len(pieces) > 1
    gateways.check_counted(cost_of(outcome))


@pytest.mark.parametrize("route", ROUTES)
async def test_two_hundred_at_once(gateways: Gateways, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many = complete(max_tokens=1).each(max_concurrency=200)
    async with gateways.provider(route, monkeypatch) as provider:
        result = (await many.run(provider, ["Say one word."] * 200)).unwrap()
    assert all(isinstance(outcome, Success) for outcome in result.value)
    gateways.check_counted(result.cost)


@pytest.mark.parametrize(
    ("route", "status"),
    [
        ("nginx-dead", 502),
        ("nginx-slow", 504),
        ("haproxy-dead", 503),
        ("haproxy-slow", 504),
        ("squid-dead", 503),
        ("squid-forbidden", 403),
    ],
)
async def test_what_a_gateway_says_of_a_server_that_is_down(
    gateways: Gateways, route: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateways.provider(route, monkeypatch) as provider:
        error = (await complete().run(provider, "?", retry=NO_RETRY)).failure()
    assert isinstance(error, PermanentError if status == 403 else ProviderError)
    assert error.metadata["status"] == status
    assert "<" not in str(error)
    assert error.cost == TokenUsage(llm_calls=1)


async def test_a_request_that_nginx_takes_for_too_large(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateways.provider("nginx-buffering", monkeypatch) as provider:
        error = (await complete().run(provider, "long " * 40_000)).failure()
    assert isinstance(error, PermanentError)
    assert error.metadata["status"] == 413
