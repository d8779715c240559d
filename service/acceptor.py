"""A listening socket in, its connections out: several in each turn of the event loop.

libuv takes one connection a turn, and a turn of a busy loop takes milliseconds. So beside hundreds of
requests that are being answered, newcomers would wait in the kernel for seconds, neither answered
nor refused: of 6,000 requests a second offered on 4,096 connections, 2,048 stood there at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from service.admission import Admission

# Workers share the socket, and the first to wake should not take the connections of all: one a turn while
# turns are short, and more as the requests under way make them long. With eight in every turn one of two
# workers had all of eight connections, and these half of the throughput; and of 700 that came to a busy
# service the last were taken after seconds, and what they asked for was answered as late.
_MOST_AT_ONCE, _UNDER_WAY_FOR_ONE = 256, 2


class Acceptor:
    """Accepts on a duplicate of ``sock`` until closed. Belongs to the running event loop."""

    def __init__(
        self, sock: socket.socket, make_protocol: Callable[[], asyncio.Protocol], admission: Admission
    ) -> None:
        self._admission = admission
        self._loop = asyncio.get_running_loop()
        self._make_protocol = make_protocol
        self._opening: set[asyncio.Task[object]] = set()
        self._sock = sock.dup()
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _accept(self) -> None:
        more = self._admission.n_under_way // _UNDER_WAY_FOR_ONE
        for _ in range(min(1 + more, _MOST_AT_ONCE)):
            try:
                connection, _ = self._sock.accept()
            except OSError:
                # Nobody is left, or has hung up, or there are no descriptors: whoever listens on
                # the socket itself deals with that.
                return
            connection.setblocking(False)
            with contextlib.suppress(OSError):  # no TCP, or hung up
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opening = self._loop.create_task(
                self._loop.connect_accepted_socket(self._make_protocol, connection)
            )
            self._opening.add(opening)
            opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self._opening.discard(opening)
        if not opening.cancelled():
            opening.exception()  # it hung up before it was there: nobody has to know
