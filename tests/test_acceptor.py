"""Who gets the connections: service/acceptor.py."""

import asyncio
import socket
from contextlib import ExitStack, contextmanager

import pytest

from service.acceptor import Acceptor
from service.admission import Admission


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
