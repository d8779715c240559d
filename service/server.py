"""uvicorn, with what it lacks: deadlines for a request's head and for who reads its answer, bodies behind a
wish for another protocol, problems for bad HTTP, cheap refusals, and draining."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.acceptor import Acceptor
from service.admission import Admission
from service.body import IS_TO_COME
from service.crowd import Crowd
from service.direct import Direct, DirectRequest
from service.memory import Collector
from service.observing.facts import request_id_of
from service.observing.log import LOGGER
from service.observing.metrics import Metrics
from service.problems import MEDIA_TYPE, Problem
from service.refusal import Held, Refusal
from service.settings import Settings
from service.state import Service
from service.tag import PATH as TAG_PATH

log = logging.getLogger(LOGGER)

MAX_HEAD_BYTES = 64 * 1024
_LOOK_S = 0.05
_REFUSED = STATUS_LINE[429]
_JOINED_BYTES = 64 * 1024  # larger bodies are not copied for it


def _is_windows() -> bool:
    return os.name == "nt"


def _is_head_of_body(data: bytes) -> bool:
    return data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data


class Lingering:
    """The transport of a connection's requests: to close it waits for the rest of the request's body.

    Closing with input unread resets the connection, and the answer may be lost on its way. And where
    others want to be answered too a head waits for its body: uvicorn writes each by itself, which wakes
    the client up twice. One that is alone has its answer sooner if the head wakes it up.
    """

    def __init__(
        self, transport: asyncio.Transport, close: Callable[[], None], admission: Admission
    ) -> None:
        self._write = transport.write
        self._close = close
        self._admission = admission
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._admission.n_under_way > 1 and not self._head and _is_head_of_body(data):
            self._head = data
        elif len(data) > _JOINED_BYTES:
            self.flush()
            self._write(data)
        else:
            data, self._head = self._head + data, b""
            self._write(data)

    def flush(self) -> None:
        """Writes a head that no body follows."""
        if self._head:
            head, self._head = self._head, b""
            self._write(head)

    def close(self) -> None:
        self.flush()
        self._close()


class ImpatientProtocol(HttpToolsProtocol):
    """Closes connections whose request's head, or refused body, takes too long or is too long, and those
    whose answers nobody reads. What is plainly one small request is answered without uvicorn's parser.

    uvicorn waits for ever for each of these (encode/uvicorn#157 is about the first): a few slow clients
    would hold every connection there is, and what was written to them.
    """

    receive_timeout_s = 30.0
    unread_timeout_s = 300.0
    crowd: Crowd | None = None
    metrics: Metrics
    admission: Admission
    refusal: Refusal
    direct: Direct

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""  # which uvicorn sets once a head has begun
        self._is_reading_head = True
        self._is_reading_body = False
        self._n_head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._under_way: list[RequestResponseCycle] = []  # or queued behind it
        self._n_counted = 0  # of Admission.n_under_way
        self._to_refuse: tuple[int, str] | None = None  # when what came before it has been answered
        self._is_last = False  # once the body under way is here the connection closes
        self._is_to_repeat = False  # the head that was read: it asks for another protocol
        self._unread_deadline: asyncio.TimerHandle | None = None  # where answers wait for the client
        self._n_unread_bytes = 0  # when that was set
        self._refused_s = -math.inf  # when it was told to come back later
        self._direct: DirectRequest | Held | None = None  # under way
        self._behind = b""  # what came after it
        self._is_to_close = False  # once it is answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._lingering = Lingering(transport, self._close_when_read, self.admission)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self._unwatch_unread()
        if self._direct is not None:
            self._direct.leave()
            self._direct = None
        self._say_that_nobody_is_left()
        self.admission.n_under_way -= self._n_counted
        self._n_counted = 0
        if self.crowd is not None:
            self.crowd.add(-1)
        super().connection_lost(exc)

    def _say_that_nobody_is_left(self) -> None:
        # uvicorn tells the last of pipelined requests only; the one under way may be another, and
        # would write its answer to a connection that is closed.
        for cycle in self._under_way:
            cycle.disconnected = True
            cycle.message_event.set()

    def _is_closing(self) -> bool:
        """Also before the loop says that the connection is lost."""
        if self.transport.is_closing():
            self._say_that_nobody_is_left()
            return True
        return False

    def _is_body_to_come(self) -> bool:
        """Of the last request of those that came, and so of none that is whole."""
        return self._is_reading_body

    def data_received(self, data: bytes) -> None:
        if self._to_refuse is not None:
            return
        if self._direct is not None:
            self._behind += data
            self.flow.pause_reading()
            return
        if self._is_between_requests():
            if self._refused_s > 0:
                self._direct = self.refusal.held(data, self._refused_s, self._take_again)
                if self._direct is not None:
                    self._unwatch()
                    self._unset_keepalive_if_required()
                    return
            refused = self.refusal.of(data, self.server_state.default_headers)
            if refused is not None:
                self._refuse_at_once(refused)
                return
            self._direct = self.direct.taken(data, self)
            if self._direct is not None:
                self._unwatch()
                self._unset_keepalive_if_required()
                return
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._is_reading_head:
            self._n_head_bytes += len(data) if self._n_head_bytes else self._n_head_bytes_in(data)
            if self._n_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes")
            elif self._deadline is None:
                self._watch()
        elif self._deadline is not None and not self._is_reading_body:
            self._unwatch()

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, but what follows a request for another protocol is read as what it is.

        httptools takes it for that protocol, and would skip the request's body; uvicorn speaks none, and
        goes on with the body as if it were the next request, which a client behind a proxy could make it.
        A server may ignore the wish (RFC 9110, section 7.8), so the head is read again without it.
        """
        left: bytes | memoryview = data
        try:
            while True:
                try:
                    self.parser.feed_data(left)
                    return
                except httptools.HttpParserUpgrade as asked:
                    left = memoryview(left)[asked.args[0] :]
                    self._repeat_head()
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")

    def _repeat_head(self) -> None:
        """Has the head that was just read parsed again, as if it had asked for no other protocol."""
        line = b"%s %s HTTP/%s\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        headers = [b"%s: %s\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        # Another parser: this one may have closed itself, after "Connection: close".
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(b"".join((line, *headers, b"\r\n")))

    def _n_head_bytes_in(self, data: bytes) -> int:
        """Of a head that began in ``data``, behind other requests maybe; 1 where its URL did not."""
        start = data.rfind(self.parser.get_method() + b" " + self.url) if self.url else -1
        return len(data) - start if start >= 0 else 1

    def _is_between_requests(self) -> bool:
        """All that came was answered, and the client has taken it."""
        has_begun = self._n_head_bytes if self._is_reading_head else self._is_reading_body
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and not has_begun and not self.flow.write_paused and not self.transport.is_closing()

    def _take_again(self, data: bytes) -> None:
        """What was held is now answered, or refused."""
        self._direct, self._refused_s = None, -math.inf
        behind, self._behind = self._behind, b""
        self.data_received(data)
        self._go_on(behind)

    def _go_on(self, behind: bytes) -> None:
        self.flow.resume_reading()
        if behind:
            self.data_received(behind)

    def _refuse_at_once(self, answer: bytes) -> None:
        self._refused_s = self.loop.time()
        self._unwatch()
        self._unset_keepalive_if_required()
        self.transport.write(answer)
        self._wait_for_next()

    def _wait_for_next(self) -> None:
        self.server_state.total_requests += 1
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def answer(self, status_line: bytes, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        """As Direct's Connection."""
        self._direct = None
        if status_line is _REFUSED:
            self._refused_s = self.loop.time()
        if self.transport.is_closing():
            return
        headers = [*self.server_state.default_headers, *headers]
        if self._is_to_close:
            headers.append((b"connection", b"close"))
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join((status_line, *lines, b"\r\n", content)))
        if (b"connection", b"close") in headers:
            self.server_state.total_requests += 1
            self._close()
            return
        self._wait_for_next()
        behind, self._behind = self._behind, b""
        self._go_on(behind)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_reading_head = True
        self._n_head_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":  # whatever its headers: what follows is no request
                raise httptools.HttpParserError("CONNECT")
            self._is_to_repeat = True
            return
        self._is_reading_head = False
        self._is_reading_body = True
        self._unwatch()
        # Who streams has to know: uvicorn's send() says nothing where nobody is left to send to.
        self.scope["state"]["is_closing"] = self._is_closing
        self.scope["state"][IS_TO_COME] = self._is_body_to_come
        super().on_headers_complete()
        self.cycle.transport = self._lingering  # type: ignore[assignment]  # all that it uses of one
        self._under_way = [cycle for cycle in self._under_way if not cycle.response_complete]
        self._under_way.append(self.cycle)
        self._n_counted += 1
        self.admission.n_under_way += 1

    def on_message_complete(self) -> None:
        if self._is_to_repeat:
            self._is_to_repeat = False
            return
        self._is_reading_body = False
        self._unwatch()
        super().on_message_complete()
        if self._is_last:
            self._give_up()

    def on_response_complete(self) -> None:
        self._lingering.flush()
        is_last = not self.pipeline
        if self._n_counted:  # else the connection was lost, and they are all counted off
            self._n_counted -= 1
            self.admission.n_under_way -= 1
        super().on_response_complete()
        if self._to_refuse is not None and is_last and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._refuse(*self._to_refuse)
            return
        if self._is_reading_body:
            # Answered before its body was here (413): the rest is read and dropped, so that the
            # client sees the answer instead of a reset connection; but not for ever.
            self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(400, "not HTTP that this server understands")

    def _refuse(self, status: int, detail: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._to_refuse = (status, detail)
            self.flow.pause_reading()
            return
        self.metrics.refused("bad-http")
        content = orjson.dumps(
            {"type": "about:blank", "title": "Bad request", "status": status, "detail": detail,
             "code": "bad-http"}
        )  # fmt: skip
        self.transport.write(
            STATUS_LINE[status]
            + f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(content)}\r\n".encode()
            + b"x-request-id: %s\r\n" % request_id_of()
            + b"connection: close\r\n\r\n"
            + content
        )
        self._close()

    def _close_when_read(self) -> None:
        if self._is_reading_body and self.cycle.response_complete:
            self._is_last = True
        else:
            self._close()

    def _close(self) -> None:
        """Once the client has read what was written; which it has to."""
        self.transport.close()
        self._watch_unread()

    def shutdown(self) -> None:
        if self._direct is not None:
            self._is_to_close = True
            return
        super().shutdown()
        if self.transport.is_closing():
            self._watch_unread()

    def timeout_keep_alive_handler(self) -> None:
        self._give_up()

    def eof_received(self) -> None:
        self._watch_unread()  # the transport closes itself

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._unwatch_unread()

    def _watch_unread(self) -> None:
        """Aborts the connection unless the client reads some of what waits for it in the time for that."""
        if self._unread_deadline is None and (n_bytes := self.transport.get_write_buffer_size()):
            self._n_unread_bytes = n_bytes
            self._unread_deadline = self.loop.call_later(self.unread_timeout_s, self._look_at_unread)

    def _unwatch_unread(self) -> None:
        if self._unread_deadline is not None:
            self._unread_deadline.cancel()
            self._unread_deadline = None

    def _look_at_unread(self) -> None:
        self._unread_deadline = None
        if self.transport.get_write_buffer_size() < self._n_unread_bytes:
            self._watch_unread()
        else:
            self.transport.abort()

    def _watch(self) -> None:
        self._unwatch()
        self._deadline = self.loop.call_later(self.receive_timeout_s, self._give_up)

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self._close()


class Lookout:
    """Tells the admission how late the event loop and the queues are, and the collector how many wait,
    until closed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._admission = service.admission
        self._collector = Collector()
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time()
        self._look()

    def _look(self) -> None:
        now = self._loop.time()
        self._admission.looked(now, now - self._due, self._service.oldest_wait_s())
        self._collector.look(now, self._admission.n_requests)
        self._due = self._loop.time() + _LOOK_S
        self._next = self._loop.call_at(self._due, self._look)

    def close(self) -> None:
        self._next.cancel()


class Server(uvicorn.Server):
    """Drains before it stops listening, so that /readyz can say so while accepted work finishes.

    Meanwhile each answer closes its connection: a client that keeps it, or a load balancer that knows of
    connections only, would otherwise go on asking here until the end.
    """

    def __init__(
        self, app: Any, service: Service, parent_pid: int | None = None, crowd: Crowd | None = None
    ) -> None:
        settings = service.settings

        class Protocol(ImpatientProtocol):
            receive_timeout_s = settings.receive_timeout_s
            unread_timeout_s = settings.max_request_timeout_s
            admission = service.admission
            refusal = Refusal(service, TAG_PATH)
            direct = Direct(service)
            metrics = service.metrics

        Protocol.crowd = crowd
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                loop="asyncio" if _is_windows() else "uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=max(1, math.ceil(settings.keep_alive_s)),
                backlog=2048,
            )
        )
        self._service = service
        self._parent_pid = parent_pid
        self._crowd = crowd
        self._beside: list[Lookout | Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn listens on none of them, but on Windows, whose event loop waits for no bare socket.
        await super().startup(sockets if _is_windows() else [])
        self._beside.append(Lookout(self._service))
        if self._crowd is not None:
            self._crowd.enter()
        for sock in sockets or ():
            if not _is_windows():
                sock.listen(self.config.backlog)
                self._beside.append(Acceptor(sock, self._protocol, self._service.admission, self._crowd))
            if not self._service.is_offload:
                host, port = sock.getsockname()[:2]
                log.info("listening", extra={"fields": {"host": host, "port": port, "pid": os.getpid()}})

    def _protocol(self) -> asyncio.Protocol:
        """As uvicorn makes them."""
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def on_tick(self, counter: int) -> bool:
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            return True  # the parent died without a word: nobody would ever stop us
        if self._service.is_offload:
            self._exit_if_wedged()
        return await super().on_tick(counter)

    def _exit_if_wedged(self) -> None:
        """Where nobody asks for /livez."""
        try:
            self._service.check_live()
        except Problem as problem:
            log.error("wedged", extra={"fields": {"pid": os.getpid(), "why": problem.detail}})
            os._exit(1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        settings = self._service.settings
        ends = loop.time() + settings.grace_s
        headers = self.server_state.default_headers  # of connections that are open, too
        headers.append((b"connection", b"close"))
        await self._service.drain(delay_s=min(settings.drain_delay_s, settings.grace_s), ends=ends)
        # All is answered; what is left is writing the answers, for which a slow reader has this long.
        self.config.timeout_graceful_shutdown = max(1, math.ceil(ends - loop.time()))
        for each in self._beside:
            each.close()
        if self._crowd is not None:
            self._crowd.leave()
        await super().shutdown(sockets)

    def run_until_told(self, sock: socket.socket) -> None:
        """Serves until SIGTERM or SIGINT, and returns when everything accepted has been answered."""
        # uvicorn takes these over once it starts, and at its end raises again what it has seen, to
        # whoever handled it before: us. What comes in between must not be lost.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "should_exit", True))
        self.run([sock])


def bound_socket(settings: Settings) -> socket.socket:
    """A socket bound to the settings' address, not yet listening. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    sock.set_inheritable(True)
    return sock
