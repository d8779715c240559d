"""One connection, fed by hand: where heads end, and answers that nobody reads."""

import asyncio
import socket
import threading
from types import SimpleNamespace

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.admission import Admission
from service.server import MAX_HEAD_BYTES, ImpatientProtocol, Lingering
from tests.running import running

BODY = b'{"sentences": []}' + b" " * 2 * MAX_HEAD_BYTES
POST = b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: %b\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written; ``n_unread`` bytes of it wait for the client."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.n_writes = 0
        self.n_unread = 0
        self.is_aborted = False
        self._is_closing = False

    def write(self, data):
        self.written += data
        self.n_writes += 1

    def get_write_buffer_size(self):
        return self.n_unread

    def is_closing(self):
        return self._is_closing

    def close(self):
        self._is_closing = True

    def abort(self):
        self._is_closing = self.is_aborted = True

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Loop:
    """Notes what is to be done later, instead of the time."""

    def __init__(self):
        self.later = []

    def call_later(self, delay_s, call):
        timer = SimpleNamespace(delay_s=delay_s, call=call, cancel=lambda: self.later.remove(timer))
        self.later.append(timer)
        return timer

    def create_task(self, coroutine):
        return asyncio.get_running_loop().create_task(coroutine)

    def timers(self, protocol):
        """Those for the client to read in."""
        return [timer for timer in self.later if timer.call == protocol._look_at_unread]

    def let_pass(self, protocol):
        (timer,) = self.timers(protocol)
        self.later.remove(timer)
        timer.call()


async def ok(_scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Connection(ImpatientProtocol):
    unread_timeout_s = 7.0
    admission = Admission(10, 10**9)
    metrics = SimpleNamespace(refused=lambda _reason: None)
    refusal = SimpleNamespace(of=lambda _data, _headers: None)
    direct = SimpleNamespace(taken=lambda _data, _connection: None)

    def __init__(self):
        config = uvicorn.Config(ok, http=ImpatientProtocol, ws="none", lifespan="off", log_config=None)
        super().__init__(config, ServerState(), {}, _loop=Loop())
        self.connection_made(Transport())

    async def answered(self, *parts):
        """The statuses that come back when these have been received."""
        for part in parts:
            self.data_received(part)
            for _ in range(10):
                await asyncio.sleep(0)
        return [int(each[:3]) for each in self.transport.written.split(b"HTTP/1.1 ")[1:]]


# Heads


@pytest.mark.anyio
@pytest.mark.parametrize("n_bytes", [1, 4, 20, 60_000])
async def test_a_head_behind_a_long_body_counts_from_where_it_begins(n_bytes):
    head = GET % (b"a" * 60_000)
    assert await Connection().answered(POST + BODY + head[:n_bytes], head[n_bytes:]) == [200, 200]
    halves = POST + BODY[:MAX_HEAD_BYTES], BODY[MAX_HEAD_BYTES:] + head[:n_bytes]
    assert await Connection().answered(*halves, head[n_bytes:]) == [200, 200]


@pytest.mark.anyio
@pytest.mark.parametrize("n_bytes", [1, 20, 60_000, 70_000])
async def test_a_head_behind_a_long_body_ends_too(n_bytes):
    head = GET % (b"a" * 70_000)
    assert await Connection().answered(POST + BODY + head[:n_bytes], head[n_bytes:-1]) == [200, 431]


@pytest.mark.anyio
async def test_line_breaks_before_a_head_are_part_of_it():
    connection = Connection()
    assert await connection.answered(b"\r\n", b"\r\n" + GET % b"a") == [200]


# Writes


@pytest.mark.anyio
@pytest.mark.parametrize(("n_others", "n_writes"), [(0, 2), (1, 1)])
async def test_beside_others_an_answer_s_head_is_written_with_its_body(n_others, n_writes):
    connection = Connection()
    connection.admission.n_under_way += n_others
    try:
        assert await connection.answered(GET % b"a") == [200]
        assert connection.transport.n_writes == n_writes
        head = (GET % b"a").replace(b"GET", b"HEAD")
        assert await connection.answered(head, GET % b"b") == [200, 200, 200]
    finally:
        connection.admission.n_under_way -= n_others


def test_a_head_waits_for_its_body_and_for_nothing_else():
    admission = Admission(10, 10**9)
    admission.n_under_way = 2
    below = Transport()
    transport = Lingering(below, below.close, admission)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    transport.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    assert below.n_writes == 1
    transport.write(head)
    assert below.n_writes == 1
    transport.write(b"a" * 100_000)  # is not copied for it
    assert below.n_writes == 3
    transport.write(head)
    transport.close()
    assert below.is_closing()
    assert below.written.endswith(b"a" * 100_000 + head)


# Answers that nobody reads


@pytest.mark.anyio
async def test_a_client_that_reads_everything_is_not_watched():
    connection = Connection()
    assert await connection.answered(GET % b"a", GET % b"b") == [200, 200]
    connection.timeout_keep_alive_handler()
    assert connection.transport.is_closing()
    assert connection.loop.timers(connection) == []


def paused(connection):
    connection.pause_writing()


def closed(connection):
    connection._close()
    assert connection.transport.is_closing()


def kept_alive_for_too_long(connection):
    connection.timeout_keep_alive_handler()
    assert connection.transport.is_closing()


def half_closed(connection):
    connection.eof_received()


def shut_down(connection):
    connection.shutdown()
    assert connection.transport.is_closing()


WAYS = [paused, closed, kept_alive_for_too_long, half_closed, shut_down]


@pytest.mark.anyio
@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_reads_nothing_is_dropped_and_one_that_reads_slowly_is_not(way):
    connection = Connection()
    transport, loop = connection.transport, connection.loop
    transport.n_unread = 1000
    way(connection)
    assert [timer.delay_s for timer in loop.timers(connection)] == [7.0]
    transport.n_unread = 999
    loop.let_pass(connection)
    assert not transport.is_aborted
    loop.let_pass(connection)
    assert transport.is_aborted
    connection.connection_lost(None)
    assert loop.timers(connection) == []


@pytest.mark.anyio
async def test_a_client_that_goes_on_to_read_is_not_watched_any_longer():
    connection = Connection()
    connection.transport.n_unread = 1000
    connection.pause_writing()
    connection.pause_writing()
    connection.resume_writing()
    assert connection.loop.timers(connection) == []
    connection.pause_writing()
    connection._close()
    connection.resume_writing()  # closing waits for the rest all the same
    assert len(connection.loop.timers(connection)) == 1
    connection.connection_lost(None)
    assert connection.loop.timers(connection) == []


@pytest.mark.parametrize("headers", [b"", b"Connection: close\r\n"])
def test_an_answer_that_nobody_reads_is_not_kept(tiny_artefact, monkeypatch, headers):
    lost = threading.Event()
    made_before, lost_before = ImpatientProtocol.connection_made, ImpatientProtocol.connection_lost

    def connection_made(protocol, transport):
        protocol.unread_timeout_s = 0.1
        made_before(protocol, transport)

    def connection_lost(protocol, exc):
        lost_before(protocol, exc)
        lost.set()

    monkeypatch.setattr(ImpatientProtocol, "connection_made", connection_made)
    monkeypatch.setattr(ImpatientProtocol, "connection_lost", connection_lost)
    sentence = b"[" + b'"a",' * 15_000 + b'"a"]'
    body = b'{"sentences": [' + b",".join([sentence] * 6) + b"]}"
    request = b"POST /v1/tag HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + headers
    with running(tiny_artefact) as service, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        client.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert lost.wait(30)
