"""A listening socket in, its connections out: several in each turn of the event loop.

libuv takes one connection a turn, and a turn of a busy loop takes milliseconds. So beside hundreds of
requests that are being answered, newcomers would wait in the kernel for seconds, neither answered
nor refused: of 6,000 requests a second offered on 4,096 connections, 2,048 stood there at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable

from service.admission import Admission
from service.crowd import Crowd
from service.observing.log import LOGGER

# One connection a turn while turns are short, and more as the requests under way make them long: of 700
# that came to a busy service the last were taken after seconds, and what they asked for answered as late.
_MOST_AT_ONCE, _UNDER_WAY_FOR_ONE = 256, 2
# Workers share the socket, and the first to wake had all of four connections as often as not, and these
# half of the throughput. Who has more than another leaves the next to that one for so long.
_LEFT_S = 0.001
# What a connection needs may be missing, descriptors mostly.
_NO_ROOM, _NO_ROOM_S = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}, 1.0

log = logging.getLogger(LOGGER)


class Acceptor:
    """Accepts on a duplicate of ``sock`` until closed. Belongs to the running event loop.

    ``crowd``: the workers that share the socket; None where there is one.
    """

    def __init__(
        self,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        admission: Admission,
        crowd: Crowd | None = None,
    ) -> None:
        self._admission = admission
        self._crowd = crowd
        self._loop = asyncio.get_running_loop()
        self._make_protocol = make_protocol
        self._opening: set[asyncio.Task[object]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._sock = sock.dup()
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _accept(self) -> None:
        if self._crowd is not None and self._crowd.has_fewer_elsewhere():
            self._rest(_LEFT_S)
        else:
            self._take()

    def _rest(self, seconds: float) -> None:
        """Takes what is there after that."""
        self._loop.remove_reader(self._sock.fileno())
        self._resting = self._loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._loop.add_reader(self._sock.fileno(), self._accept)
        self._take()

    def _take(self) -> None:
        more = self._admission.n_under_way // _UNDER_WAY_FOR_ONE
        for _ in range(min(1 + more, _MOST_AT_ONCE)):
            try:
                connection, _ = self._sock.accept()
            except OSError as error:
                if error.errno in _NO_ROOM:
                    log.error("no connection can be taken", extra={"fields": {"why": error.strerror}})
                    self._rest(_NO_ROOM_S)
                return  # nobody is left, or has hung up
            connection.setblocking(False)
            with contextlib.suppress(OSError):  # no TCP, or hung up
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._crowd is not None:
                self._crowd.add(1)
            opening = self._loop.create_task(
                self._loop.connect_accepted_socket(self._make_protocol, connection)
            )
            self._opening.add(opening)
            opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[object]) -> None:
        self._opening.discard(opening)
        is_lost = opening.cancelled() or opening.exception() is not None
        if is_lost and self._crowd is not None:  # else who lost it says so
            self._crowd.add(-1)
