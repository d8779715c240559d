"""The meters against prometheus_client's own, and as several processes share them."""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from service.observing.meters import SECONDS, Folder, Meters, exposition, forget_gauges
from service.settings import ROOT
from tests.strategies import brief


@contextmanager
def new_folder():
    made = Folder()
    yield made.path
    made.delete()


@pytest.fixture
def folder():
    with new_folder() as path:
        yield path


@contextmanager
def meters_of(folder, pid=1):
    meters = Meters(folder, pid)
    yield meters
    meters.close()


def lines(text):
    return sorted(line for line in text.decode().splitlines() if "_created" not in line)


@brief
@given(st.lists(st.floats(0, 1000) | st.sampled_from(SECONDS), max_size=30))
def test_the_exposition_is_prometheus_clients_own(values):
    registry = CollectorRegistry()
    theirs = Histogram("wait_seconds", "Waiting", ["path"], buckets=SECONDS, registry=registry).labels("/a")
    n_theirs = Counter("n_total", 'A "number"\\', ["path", "model"], registry=registry).labels("/a", "b\n")
    with new_folder() as folder, meters_of(folder) as meters:
        ours = meters.histogram("wait_seconds", "Waiting", SECONDS, path="/a")
        n_ours = meters.counter("n_total", 'A "number"\\', path="/a", model="b\n")
        for value in values:
            ours.observe(value)
            theirs.observe(value)
            n_ours.add(value)
            n_theirs.inc(value)
        assert lines(exposition(folder)) == lines(generate_latest(registry))


def test_counts_of_all_processes_are_added_and_only_the_gauges_of_the_dead_go(folder):
    with meters_of(folder, 1) as one, meters_of(folder, 2) as two:
        for meters, n in ((one, 3), (two, 4)):
            meters.counter("n_total", "N").add(n)
            meters.gauge("depth", "Depth").set(n)
    assert {"n_total 7.0", "depth 7.0"} <= set(lines(exposition(folder)))
    forget_gauges(folder, 1)
    assert {"n_total 7.0", "depth 4.0"} <= set(lines(exposition(folder)))
    with meters_of(folder, 1) as again:  # a later process may get the number of a dead one
        again.counter("n_total", "N").add()
    assert "n_total 8.0" in lines(exposition(folder))


def test_the_same_name_and_labels_are_the_same_number_also_when_the_file_has_grown(folder):
    with meters_of(folder) as meters:
        early = meters.counter("n_total", "N", at="0")
        for i in range(2_000):  # of more than 64 bytes each: past the size that the file begins with
            meters.counter("n_total", "N", at=str(i)).add()
        early.add()
    assert 'n_total{at="0"} 2.0' in lines(exposition(folder))
    assert 'n_total{at="1999"} 1.0' in lines(exposition(folder))


def test_threads_can_make_meters_at_the_same_time(folder):
    together = threading.Barrier(8)

    def make(thread):
        together.wait()
        for i in range(200):
            meters.counter("n_total", "N", thread=str(thread), i=str(i)).add()

    with meters_of(folder) as meters:
        threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    counted = [line for line in lines(exposition(folder)) if not line.startswith("#")]
    assert len(counted) == 1600
    assert {line.rpartition(" ")[2] for line in counted} == {"1.0"}


MAKE_ONE = "from service.observing.meters import Folder; made = Folder(); print(made.path, flush=True)"


def printed(code):
    """What the code prints, as a process of its own."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.skipif(os.name == "nt", reason="there are no such locks")
def test_the_folder_of_a_killed_process_is_deleted_by_the_next_and_a_live_ones_is_kept(folder):
    left = Path(printed(f"{MAKE_ONE}; import os; os.kill(os.getpid(), 9)"))
    assert left.is_dir()
    assert left.parent == folder.parent
    with new_folder():
        assert not left.exists()
        assert folder.is_dir()


def test_a_folder_is_gone_when_its_process_ends():
    assert not Path(printed(MAKE_ONE)).exists()
