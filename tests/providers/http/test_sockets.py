"""Every kind of byte stream against a server that does what a server may do to one."""

import asyncio
import gc
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from executionkit.providers.http import asyncio_sockets
from executionkit.providers.http.address import parse_address
from executionkit.providers.http.asyncio_sockets import alternating, connect_asyncio
from executionkit.providers.http.connecting import connect
from executionkit.providers.http.sockets import ByteSocket
from tests.faults.test_pool import deaf_port

pytestmark = pytest.mark.anyio

CERTIFICATES = Path(__file__).parents[2] / "faults" / "tls"
MUCH = 8_000_000

Act = Callable[[socket.socket], None]


@contextmanager
def server(act: Act, *, tls: bool = False) -> Generator[int, None, None]:
    """Serve one connection in a thread."""
    failures: list[BaseException] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "cert.pem", CERTIFICATES / "key.pem")

    def serve() -> None:
        try:
            accepted, _ = listening.accept()
            accepted.settimeout(20)
            with context.wrap_socket(accepted, server_side=True) if tls else accepted as connection:
                act(connection)
        except BaseException as error:
            failures.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join(20)
    assert not failures


@pytest.fixture(params=["address", "name", "tls", "transport", "tls-transport"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str) -> str:
    if "transport" in request.param:
        if anyio_backend_name == "trio":
            pytest.skip("trio has sockets only")
        monkeypatch.setattr(asyncio_sockets, "_watches_sockets", never)
    return str(request.param)


def never(_: object) -> bool:
    return False


def is_tls(kind: str) -> bool:
    return kind.startswith("tls")


async def opened(port: int, kind: str) -> ByteSocket:
    host = "localhost" if kind == "name" else "127.0.0.1"
    tls = ssl.create_default_context(cafile=CERTIFICATES / "cert.pem") if is_tls(kind) else None
    with anyio.fail_after(20):
        return await connect(parse_address(f"http://{host}:{port}"), tls)


def hear_out(connection: socket.socket) -> None:
    while connection.recv(10_000):
        pass


def expect_end(connection: socket.socket) -> None:
    assert connection.recv(1) == b""


async def read_all(stream: ByteSocket) -> int:
    size = 0
    with anyio.fail_after(20):
        while data := await stream.read():
            size += len(data)
    return size


async def test_what_is_read_late_is_read_whole(kind: str) -> None:
    """The server sends more than is kept: taking in stops until somebody reads, and goes on then."""

    def act(connection: socket.socket) -> None:
        connection.sendall(b"x" * MUCH)

    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        await anyio.sleep(0.1)
        assert await read_all(stream) == MUCH
        await stream.abort()


async def test_what_is_written_arrives_whole(kind: str) -> None:
    def act(connection: socket.socket) -> None:
        left = MUCH
        while left:
            left -= len(connection.recv(10_000))
        connection.sendall(b"thanks")
        done.wait(20)

    done = threading.Event()
    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        await stream.write(b"x" * MUCH)
        with anyio.fail_after(20):
            assert await stream.read() == b"thanks"
            while stream.is_stale():  # noqa: ASYNC110 - trio's sender has yet to see that all is sent
                await anyio.sleep(0)
        done.set()
        await stream.abort()


async def test_an_answer_is_read_while_the_server_reads_nothing(kind: str) -> None:
    done = threading.Event()

    def act(connection: socket.socket) -> None:
        connection.sendall(b"too much")
        done.wait(20)

    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        try:
            with anyio.fail_after(20):
                await stream.write(b"x" * MUCH * 4)
                assert await stream.read() == b"too much"
            assert stream.is_stale()
            await stream.abort()
        finally:
            done.set()


async def test_a_server_that_hung_up_is_stale_and_takes_nothing(kind: str) -> None:
    with server(lambda connection: connection.sendall(b"bye"), tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        assert await read_all(stream) == 3
        assert stream.is_stale()
        await stream.write(b"x")
        await stream.write(b"x")
        assert await stream.read() == b""
        await stream.abort()


async def test_bytes_that_nobody_asked_for_make_it_stale(kind: str) -> None:
    done = threading.Event()

    def act(connection: socket.socket) -> None:
        connection.sendall(b"first")
        connection.recv(1)
        connection.sendall(b"unasked")
        done.wait(20)

    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        try:
            with anyio.fail_after(20):
                assert await stream.read() == b"first"
                assert not stream.is_stale()
                await stream.write(b"!")
                while not stream.is_stale():  # noqa: ASYNC110 - no event tells of it
                    await anyio.sleep(0.001)
            await stream.abort()
        finally:
            done.set()


async def test_a_reset_is_an_error_of_the_connection(kind: str) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(1)
        linger = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if isinstance(connection, ssl.SSLSocket):
            connection = socket.socket(fileno=connection.detach())
        connection.close()

    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        await stream.write(b"x")
        with anyio.fail_after(20), pytest.raises(OSError, match="the connection broke"):
            await stream.read()
        assert stream.is_stale()
        await stream.abort()


async def test_reading_can_be_cancelled_and_begun_again(kind: str) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"late")

    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        with anyio.move_on_after(0.01) as scope:
            await stream.read()
        assert scope.cancelled_caught
        await stream.write(b"x")
        with anyio.fail_after(20):
            assert await stream.read() == b"late"
        await stream.abort()


async def test_closing_wakes_who_reads(kind: str) -> None:
    ended: list[bytes] = []

    async def read(stream: ByteSocket) -> None:
        try:
            ended.append(await stream.read())
        except Exception as error:
            ended.append(repr(error).encode())

    with server(expect_end) as port:
        stream = await opened(port, "address" if is_tls(kind) else kind)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(read, stream)
                await anyio.sleep(0.01)
                await stream.abort()
                await stream.abort()
        assert len(ended) == 1
        assert stream.is_stale()


async def test_refusing_is_an_error_that_names_the_server(anyio_backend_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with pytest.raises(OSError) as caught:  # noqa: PT011 - of what kind it is differs between the loops
        await connect(parse_address(f"http://127.0.0.1:{port}"), None)
    if anyio_backend_name == "asyncio":
        assert isinstance(caught.value, ConnectionRefusedError)
        assert str(port) in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="a full queue of connections refuses there")
async def test_connecting_can_be_cancelled_and_leaves_no_socket() -> None:
    with deaf_port() as port, warnings.catch_warnings():
        warnings.simplefilter("error")
        with anyio.move_on_after(0.02) as scope:
            await connect(parse_address(f"http://127.0.0.1:{port}"), None)
        gc.collect()
    assert scope.cancelled_caught


async def test_an_address_of_version_six() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listening = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listening:
        stream = await connect(parse_address(f"http://[::1]:{listening.getsockname()[1]}"), None)
        accepted, _ = listening.accept()
        with accepted:
            accepted.sendall(b"six")
            with anyio.fail_after(20):
                assert await stream.read() == b"six"
        await stream.abort()


async def test_agreeing_on_tls_can_be_cancelled_and_leaves_no_socket() -> None:
    spoken_to = threading.Event()

    def act(connection: socket.socket) -> None:
        assert connection.recv(1)
        spoken_to.set()
        hear_out(connection)

    context = ssl.create_default_context()
    with server(act) as port:
        address = parse_address(f"https://127.0.0.1:{port}")
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(connect, address, context)
                while not spoken_to.is_set():  # noqa: ASYNC110 - it is set in another thread
                    await anyio.sleep(0.001)
                group.cancel_scope.cancel()


async def test_a_server_without_tls_is_refused_and_leaves_no_socket() -> None:
    with (
        server(lambda connection: connection.sendall(b"HTTP/1.1 400 No\r\n\r\n")) as port,
        anyio.fail_after(20),
        pytest.raises(ssl.SSLError),
    ):
        await connect(parse_address(f"https://127.0.0.1:{port}"), ssl.create_default_context())


async def test_what_is_written_while_some_is_unsent_comes_behind_it(kind: str) -> None:
    def act(connection: socket.socket) -> None:
        assert go_on.wait(20)
        data = b""
        while not data.endswith(b"b"):
            data += connection.recv(1_000_000)
        assert data == b"a" * MUCH + b"b"
        connection.sendall(b"thanks")

    go_on = threading.Event()
    with server(act, tls=is_tls(kind)) as port:
        stream = await opened(port, kind)
        with anyio.fail_after(20):
            await stream.write(b"a" * MUCH)
            await stream.write(b"b")
            go_on.set()
            assert await stream.read() == b"thanks"
        await stream.abort()


class _Resolver(asyncio.SelectorEventLoop):
    """An event loop for which every name has these addresses."""

    def __init__(self, *targets: tuple[str, int]) -> None:
        super().__init__()
        self._targets = targets

    async def getaddrinfo(self, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", target) for target in self._targets]


def on_addresses(*targets: tuple[str, int], host: str = "example.test") -> tuple[object, str]:
    """Connect to a name with these addresses and return what reads there, or the error."""

    async def run() -> tuple[object, str]:
        try:
            stream = await connect_asyncio(host, 80)
        except OSError as error:
            return error, str(error)
        read = (await stream.read()).decode()
        await stream.abort()
        return stream, read

    with asyncio.Runner(loop_factory=lambda: _Resolver(*targets)) as runner:
        return runner.run(run())


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_an_address_that_refuses_gives_way_to_the_next() -> None:
    with server(greet) as port:
        assert on_addresses(("127.0.0.1", closed_port()), ("127.0.0.1", port))[1] == "hello"


@pytest.mark.skipif(sys.platform == "win32", reason="a full queue of connections refuses there")
def test_an_address_that_is_silent_is_overtaken() -> None:
    with deaf_port() as deaf, server(greet) as port:
        assert on_addresses(("127.0.0.1", deaf), ("127.0.0.1", port))[1] == "hello"


def test_where_all_refuse_the_error_names_each() -> None:
    ports = closed_port(), closed_port()
    error, text = on_addresses(*(("127.0.0.1", port) for port in ports))
    assert isinstance(error, OSError)
    assert all(f"127.0.0.1:{port}" in text for port in ports)
    error, text = on_addresses(("127.0.0.1", ports[0]))
    assert isinstance(error, ConnectionRefusedError)


@pytest.mark.skipif(sys.platform == "win32", reason="a full queue of connections refuses there")
def test_a_race_that_is_cancelled_leaves_no_socket() -> None:
    async def run(deaf: int) -> None:
        with anyio.move_on_after(0.4) as scope:
            await connect_asyncio("example.test", deaf)
        assert scope.cancelled_caught

    with (
        deaf_port() as deaf,
        asyncio.Runner(loop_factory=lambda: _Resolver(*[("127.0.0.1", deaf)] * 3)) as runner,
    ):
        runner.run(run(deaf))


def test_a_name_without_an_address_is_an_error() -> None:
    error, text = on_addresses()
    assert isinstance(error, OSError)
    assert text == "no address"


def test_an_address_with_a_zone_is_looked_up() -> None:
    with server(greet) as port:
        assert on_addresses(("127.0.0.1", port), host="fe80::1%eth0")[1] == "hello"


def test_kinds_of_addresses_take_turns() -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    targets = [(six, ("a",)), (six, ("b",)), (six, ("c",)), (four, ("d",)), (four, ("e",))]
    order = [target[0] for _, target in alternating(targets)]
    assert order == ["a", "d", "b", "e", "c"]
