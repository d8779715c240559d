"""When Python's collector runs, and over what."""

import gc
import weakref

import pytest

from service.memory import Collector


@pytest.fixture
def collector():
    before = gc.get_threshold()
    try:
        yield Collector()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Cycle:
    def __init__(self):
        self.me = self


def old_garbage():
    """Only a full collection frees it."""
    made = Cycle()
    gc.collect()
    return weakref.ref(made)


@pytest.mark.parametrize(("now_s", "n_requests", "is_freed"), [
    (5.0, 0, False), (11.0, 1, False), (11.0, 0, True), (601.0, 9, True),
])  # fmt: skip
def test_garbage_goes_when_nobody_waits_or_at_the_latest_after_ten_minutes(
    collector, now_s, n_requests, is_freed
):
    collector.look(0.0, 0)
    garbage = old_garbage()
    collector.look(now_s, n_requests)
    assert (garbage() is None) == is_freed


def test_no_number_of_objects_begins_a_full_collection(collector):  # noqa: ARG001
    before = gc.get_stats()[2]["collections"]
    kept = [[i] for i in range(400_000)]
    assert gc.get_stats()[2]["collections"] == before
    assert len(kept) == 400_000


def test_where_many_requests_are_in_hand_their_objects_are_not_walked_over_again_and_again(collector):
    def n_collections(n_requests):
        collector.look(0.0, n_requests)
        gc.collect(0)
        before = gc.get_stats()[0]["collections"]
        kept = [[i] for i in range(20_000)]
        return gc.get_stats()[0]["collections"] - before, len(kept)

    assert n_collections(1)[0] > 3
    assert n_collections(400)[0] == 0
    assert n_collections(0)[0] > 3


def test_what_was_loaded_before_is_not_walked_over(collector):  # noqa: ARG001
    assert gc.get_freeze_count() > 10_000
