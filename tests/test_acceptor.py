"""Who gets the connections: service/acceptor.py."""

import asyncio
import errno
import os
import socket
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from service import acceptor as acceptors
from service import crowd
from service.acceptor import Acceptor
from service.admission import Admission
from service.crowd import Crowd


@contextmanager
def listening_to(n_clients):
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as clients:
        for _ in range(n_clients):
            clients.enter_context(socket.create_connection(listening.getsockname()))
        yield listening


@pytest.mark.parametrize(("n_under_way", "n_accepted"), [(0, 1), (1, 1), (6, 4), (5_000, 10)])
def test_a_turn_takes_one_connection_and_more_where_many_requests_are_under_way(n_under_way, n_accepted):
    async def accepted():
        with listening_to(10) as listening:
            admission = Admission(100, 100)
            admission.n_under_way = n_under_way
            acceptor = Acceptor(listening, asyncio.Protocol, admission)
            acceptor._accept()  # as the loop does, once a turn
            opening = list(acceptor._opening)
            acceptor.close()
            for transport, _ in await asyncio.gather(*opening):
                transport.close()
        return len(opening)

    assert asyncio.run(accepted()) == n_accepted


def test_all_connections_are_taken_in_the_end():
    async def accepted():
        made = []

        def protocol():
            made.append(asyncio.Protocol())
            return made[-1]

        with listening_to(50) as listening:
            acceptor = Acceptor(listening, protocol, Admission(100, 100))
            while len(made) < 50:
                await asyncio.sleep(0)
            acceptor.close()
        return len(made)

    assert asyncio.run(accepted()) == 50


class Counted(asyncio.Protocol):
    """As service/server.py's: says when its connection is gone."""

    def __init__(self, crowd, made):
        self.crowd, self.made = crowd, made

    def connection_made(self, transport):
        self.transport = transport
        self.made.append(self)

    def connection_lost(self, _):
        self.crowd.add(-1)


def test_workers_take_turns_whoever_wakes_first(tmp_path):
    crowd.make(tmp_path, 3)  # the third has not come up
    crowds = [Crowd(tmp_path, place) for place in (0, 1)]

    async def taken():
        made = [[], []]
        with listening_to(0) as listening, ExitStack() as clients:
            for each in crowds:
                each.enter()
            both = [
                Acceptor(listening, partial(Counted, *of), Admission(9, 9), of[0])
                for of in zip(crowds, made, strict=True)
            ]

            async def connected(n):
                for _ in range(n):
                    so_far = sum(map(len, made))
                    clients.enter_context(socket.create_connection(listening.getsockname()))
                    while sum(map(len, made)) == so_far:
                        await asyncio.sleep(0)

            await connected(10)
            both_took = [len(each) for each in made]
            for one in made[0]:
                one.transport.close()
            await asyncio.sleep(0.01)
            await connected(4)
            first_again = len(made[0]) - both_took[0]
            crowds[1].leave()
            both[1].close()
            await connected(3)
            both[0].close()
            for one in (*made[0], *made[1]):
                one.transport.abort()
            await asyncio.sleep(0.01)
        return both_took, first_again, len(made[0]) + len(made[1])

    assert asyncio.run(taken()) == ([5, 5], 4, 17)


def test_a_worker_that_died_is_waited_for_no_more(tmp_path):
    crowd.make(tmp_path, 2)
    here, gone = (Crowd(tmp_path, place) for place in (0, 1))
    for each in (here, gone):
        each.enter()
    here.add(1)
    assert here.has_fewer_elsewhere()
    assert not gone.has_fewer_elsewhere()
    crowd.vacate(tmp_path, 1)
    assert not here.has_fewer_elsewhere()


def test_without_descriptors_it_waits_instead_of_asking_on_and_on(monkeypatch, caplog):
    monkeypatch.setattr(acceptors, "_NO_ROOM_S", 0.05)

    class Full:
        n_asked = 0

        def __init__(self, sock):
            self.fileno, self.close = sock.fileno, sock.close

        def accept(self):
            self.n_asked += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def accepted():
        made = []
        with listening_to(1) as listening:
            acceptor = Acceptor(
                listening, lambda: made.append(asyncio.Protocol()) or made[-1], Admission(9, 9)
            )
            sock, acceptor._sock = acceptor._sock, Full(acceptor._sock)
            await asyncio.sleep(0.04)
            n_asked, acceptor._sock = acceptor._sock.n_asked, sock
            while not made:
                await asyncio.sleep(0.01)
            acceptor.close()
        return n_asked

    assert asyncio.run(accepted()) == 1
    assert "no connection can be taken" in caplog.text
