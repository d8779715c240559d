"""The batcher with functions that are not networks: ``tag_batch`` here upper-cases strings."""

import asyncio
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching import Backlog, Batcher, ClosedError, DeadlineError, Job, OverloadedError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Worker:
    """A batch function that records, fails for "boom", and can be held up."""

    def __init__(self, held=False):
        self.batches = []
        self.came = threading.Semaphore(0)
        self.pass_on = threading.Semaphore(0)
        self.held = held

    def __call__(self, items):
        self.batches.append(list(items))
        self.came.release()
        if self.held:
            assert self.pass_on.acquire(timeout=10)
        if "boom" in items:
            raise ValueError("boom")
        return [item.upper() for item in items]

    async def has_begun(self):
        """Returns when the next batch has reached the thread."""
        assert await asyncio.to_thread(self.came.acquire, timeout=10)

    def release(self):
        self.held = False
        self.pass_on.release()


def batcher(worker, **options):
    limits = {"max_batch_tokens": 100, "max_queue_requests": 100, "max_queue_tokens": 10_000}
    return Batcher(worker, length=len, **{**limits, **options})


async def test_a_lone_request_goes_at_once():
    worker = Worker()
    async with batcher(worker) as queue:
        assert await queue.submit(["ada"]) == ["ADA"]
    assert worker.batches == [["ada"]]


async def test_what_arrives_while_one_batch_computes_forms_the_next():
    worker = Worker(held=True)
    async with batcher(worker) as queue:
        first = queue.submit(["a"])
        await worker.has_begun()
        rest = [queue.submit([c]) for c in "bcd"]
        worker.release()
        assert await asyncio.gather(first, *rest) == [["A"], ["B"], ["C"], ["D"]]
    assert worker.batches == [["a"], ["b", "c", "d"]]


async def test_results_come_back_in_the_order_of_the_request():
    async with batcher(Worker(), max_batch_tokens=12) as queue:
        items = ["a" * n for n in (3, 9, 1, 30, 2, 2, 12, 5)]
        assert await queue.submit(items) == [item.upper() for item in items]
        assert await queue.submit([]) == []


padded_or_not = pytest.mark.parametrize("is_padded", [True, False])


@settings(deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=40), min_size=1, max_size=8),
    budget=st.integers(1, 200),
    is_padded=st.booleans(),
)
async def test_no_batch_exceeds_its_budget_and_nothing_is_lost(requests, budget, is_padded):
    backlog = Backlog(is_padded=is_padded)
    loop = asyncio.get_running_loop()
    jobs = [Job(lengths, lengths, loop.create_future()) for lengths in requests]
    for job in jobs:
        backlog.add(job)
    seen = []
    while backlog:
        head = backlog._turns[0]
        batch, late = backlog.take(budget, now=0.0)
        assert not late
        lengths = [place.length for place in batch]
        n_cells = max(lengths) * len(lengths)
        assert len(batch) == 1 or (n_cells if is_padded else sum(lengths)) <= budget
        # Who is first in turn is always served, so nobody waits for ever.
        assert any(place.job is head for place in batch)
        # Padding is bounded: at most half, but for what is short anyway, or by memory alone.
        if is_padded:
            assert max(lengths) <= 2 * min(lengths) + 32
        assert len(batch) == 1 or n_cells <= 8 * budget
        seen += [(id(place.job), place.index) for place in batch]
    assert sorted(seen) == sorted((id(job), i) for job in jobs for i in range(len(job.items)))


@padded_or_not
async def test_a_request_of_ten_thousand_items_does_not_starve_single_ones(is_padded):
    backlog = Backlog(is_padded=is_padded)
    loop = asyncio.get_running_loop()
    large = Job(["x"] * 10_000, [20] * 10_000, loop.create_future())
    singles = [Job(["y"], [20], loop.create_future()) for _ in range(5)]
    for job in (large, *singles):
        backlog.add(job)
    batch, _ = backlog.take(1024, now=0.0)
    assert {place.job for place in batch} == {large, *singles}
    # And a single one of quite another length waits for one batch, not for hundreds.
    other = Job(["z"], [400], loop.create_future())
    backlog.add(other)
    batches = [backlog.take(1024, now=0.0)[0] for _ in range(2)]
    assert any(place.job is other for batch in batches for place in batch)


@padded_or_not
async def test_large_requests_take_turns(is_padded):
    backlog = Backlog(is_padded=is_padded)
    loop = asyncio.get_running_loop()
    long, short = (Job(["x"] * 10, [n] * 10, loop.create_future()) for n in (400, 20))
    backlog.add(long)
    backlog.add(short)
    # An item larger than the whole budget is a turn, and so are two batches of three that are not.
    turns = [backlog.take(100, now=0.0)[0][0].job for _ in range(7)]
    assert turns == [long, short, short, long, short, short, long]


@padded_or_not
async def test_of_many_large_requests_the_first_are_answered_first(is_padded):
    backlog = Backlog(is_padded=is_padded)
    loop = asyncio.get_running_loop()
    rng = random.Random(1)
    jobs = [
        Job(["x"] * 32, [rng.randint(5, 45) for _ in range(32)], loop.create_future()) for _ in range(64)
    ]
    for job in jobs:
        backlog.add(job)
    ends = {}  # of each job, the batch that had its last item
    n_batches = 0
    while backlog:
        n_batches += 1
        for place in backlog.take(1024, now=0.0)[0]:
            ends[place.job] = n_batches
    in_order = [ends[job] for job in jobs]
    assert in_order[0] < 0.2 * n_batches
    assert in_order[32] < 0.7 * n_batches
    # Each soon after its place in the queue, by the time that a few others take.
    assert all(end < (i + 16) / 64 * n_batches for i, end in enumerate(in_order))


async def test_a_caller_who_left_takes_no_place_in_a_batch():
    backlog = Backlog()
    loop = asyncio.get_running_loop()
    gone, kept = (Job(["x"], [20], loop.create_future()) for _ in range(2))
    backlog.add(gone)
    backlog.add(kept)
    gone.future.cancel()
    batch, _ = backlog.take(20, now=0.0)
    assert [place.job for place in batch] == [kept]
    assert not backlog


async def test_only_the_guilty_item_s_request_fails():
    worker = Worker(held=True)
    async with batcher(worker) as queue:
        first = queue.submit(["first"])
        await worker.has_begun()
        others = [queue.submit([word]) for word in ("b", "c", "boom", "e", "f")]
        worker.release()
        got = await asyncio.gather(first, *others, return_exceptions=True)
        assert [str(each) for each in got] == ["['FIRST']", "['B']", "['C']", "boom", "['E']", "['F']"]
        assert await queue.submit(["later"]) == ["LATER"]


async def test_a_function_that_loses_results_fails_its_callers():
    async with batcher(lambda _: []) as queue:
        with pytest.raises(RuntimeError, match="1 items in, 0 results out"):
            await queue.submit(["a"])


async def test_a_full_queue_is_refused_at_once_and_says_how_full():
    worker = Worker(held=True)
    async with batcher(worker, max_queue_requests=2, max_queue_tokens=10) as queue:
        running = queue.submit(["a" * 4])
        await worker.has_begun()
        with pytest.raises(OverloadedError) as tokens:
            queue.submit(["b" * 7])
        assert (tokens.value.what, tokens.value.waiting, tokens.value.most) == ("tokens", 4, 10)
        waiting = queue.submit(["b"])
        with pytest.raises(OverloadedError) as requests:
            queue.submit(["c"])
        assert (requests.value.what, requests.value.waiting, requests.value.most) == ("requests", 2, 2)
        worker.release()
        assert await asyncio.gather(running, waiting) == [["AAAA"], ["B"]]
        assert (queue.n_waiting_requests, queue.n_waiting_tokens) == (0, 0)


async def test_an_idle_queue_lets_any_request_in():
    async with batcher(Worker(), max_queue_requests=1, max_queue_tokens=1) as queue:
        assert await queue.submit(["abc", "de"]) == ["ABC", "DE"]


async def test_what_was_cancelled_is_not_computed():
    worker = Worker(held=True)
    async with batcher(worker) as queue:
        first = queue.submit(["a"])
        await worker.has_begun()
        gone, kept = queue.submit(["gone"]), queue.submit(["kept"])
        gone.cancel()
        worker.release()
        assert await asyncio.gather(first, kept) == [["A"], ["KEPT"]]
    assert worker.batches == [["a"], ["kept"]]


async def test_a_deadline_in_the_queue_ends_the_wait_and_saves_the_work():
    worker = Worker(held=True)
    now = 0.0
    async with batcher(worker, clock=lambda: now) as queue:
        first = queue.submit(["a"])
        await worker.has_begun()
        late, kept = queue.submit(["late"], deadline=100.0), queue.submit(["kept"], deadline=300.0)
        now = 200.0
        worker.release()
        assert await asyncio.gather(first, kept) == [["A"], ["KEPT"]]
        with pytest.raises(DeadlineError):
            await late
    assert worker.batches == [["a"], ["kept"]]


async def test_a_deadline_ends_the_wait_for_a_batch_that_computes():
    worker = Worker(held=True)
    async with batcher(worker, clock=lambda: 0.0) as queue:
        with pytest.raises(DeadlineError):
            await queue.submit(["a"], deadline=0.001)
        worker.release()


async def test_out_of_memory_halves_the_budget_and_tries_again():
    freed = []

    def small_device(items):
        if len(items) > 2:
            raise MemoryError
        return [item.upper() for item in items]

    async with batcher(
        small_device,
        is_out_of_memory=lambda error: isinstance(error, MemoryError),
        free_memory=lambda: freed.append(True),
    ) as queue:
        assert await queue.submit(list("abcdefgh")) == list("ABCDEFGH")
        assert freed
        assert queue.max_batch_tokens == 100 // 2 ** len(freed)


async def test_an_item_too_large_for_the_device_fails_alone():
    def tiny_device(items):
        if any(len(item) > 3 for item in items):
            raise MemoryError
        return [item.upper() for item in items]

    async with batcher(tiny_device, is_out_of_memory=lambda e: isinstance(e, MemoryError)) as queue:
        got = await asyncio.gather(queue.submit(["large"]), queue.submit(["a"]), return_exceptions=True)
        assert isinstance(got[0], MemoryError)
        assert got[1] == ["A"]


async def test_closing_finishes_what_was_accepted_and_takes_no_more():
    worker = Worker(held=True)
    queue = batcher(worker, max_batch_tokens=2)
    queue.start()
    accepted = [queue.submit([c]) for c in "abcde"]
    await worker.has_begun()
    closing = asyncio.create_task(queue.close())
    worker.release()
    await closing
    assert await asyncio.gather(*accepted) == [["A"], ["B"], ["C"], ["D"], ["E"]]
    with pytest.raises(ClosedError):
        queue.submit(["f"])


async def test_a_wedged_batch_is_seen_and_given_up_at_the_end():
    worker = Worker(held=True)
    now = 0.0
    queue = batcher(worker, clock=lambda: now)
    queue.start()
    assert queue.busy_for_s() == 0.0
    accepted = [queue.submit(["a"]), queue.submit(["b"])]
    await worker.has_begun()
    now = 70.0
    assert queue.busy_for_s() == 70.0
    await queue.close(timeout_s=0.0)
    for each in await asyncio.gather(*accepted, return_exceptions=True):
        assert isinstance(each, ClosedError)
    worker.release()


async def test_a_thread_that_dies_leaves_nobody_waiting():
    def deadly(_):
        raise SystemExit

    async with batcher(deadly) as queue:
        with pytest.raises(ClosedError):
            await queue.submit(["a"])
        assert queue.busy_for_s() > 1e9
        with pytest.raises(ClosedError):
            queue.submit(["b"])


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def waited(self, caller, seconds):
        self.told.append(("waited", caller, seconds))

    def computed(self, batch, seconds):
        self.told.append(("computed", [place.item for place in batch], seconds))

    def failed(self, batch, seconds):
        self.told.append(("failed", [place.item for place in batch], seconds))


async def test_the_observer_is_told_how_long_each_request_waited_and_of_each_batch():
    now = 0.0
    worker, notes = Worker(held=True), Notes()
    async with batcher(worker, max_batch_tokens=2, clock=lambda: now, observer=notes) as queue:
        first = queue.submit(["a"], caller="one")
        await worker.has_begun()
        second = queue.submit(["b", "c", "d"], caller="two")  # of two batches, and one wait
        now = 3.0
        worker.release()
        await asyncio.gather(first, second)
    assert notes.told == [
        ("waited", "one", 0.0), ("computed", ["a"], 3.0),
        ("waited", "two", 3.0), ("computed", ["b", "c"], 0.0), ("computed", ["d"], 0.0),
    ]  # fmt: skip


async def test_the_observer_is_told_which_batches_failed():
    notes = Notes()
    async with batcher(Worker(), clock=lambda: 0.0, observer=notes) as queue:
        with pytest.raises(ValueError, match="boom"):
            await queue.submit(["boom"])
    assert notes.told == [("waited", None, 0.0), ("failed", ["boom"], 0.0)]


async def test_an_observer_that_raises_harms_nobody():
    class Broken:
        def waited(self, *_):
            raise ValueError

        computed = failed = waited

    async with batcher(Worker(), observer=Broken()) as queue:
        assert await queue.submit(["ada"]) == ["ADA"]
        assert await queue.submit(["bob"]) == ["BOB"]


async def test_the_oldest_wait_is_that_of_a_request_that_no_batch_has_come_to():
    now = 0.0
    worker = Worker(held=True)
    async with batcher(worker, clock=lambda: now) as queue:
        large = queue.submit(["a" * 60, "b" * 60])
        await worker.has_begun()
        now = 3.0
        assert queue.oldest_wait_s() == 0.0  # some of it is being computed
        small = queue.submit(["c"])
        now = 5.0
        assert queue.oldest_wait_s() == 2.0
        worker.release()
        await asyncio.gather(large, small)
        assert queue.oldest_wait_s() == 0.0


ITEM = st.tuples(st.integers(1, 30), st.sampled_from(["fine", "fine", "fine", "boom"]))
STEP = st.one_of(
    st.tuples(st.just("submit"), st.lists(ITEM, max_size=12)),
    st.tuples(st.just("submit late"), st.lists(ITEM, max_size=3)),
    st.tuples(st.just("submit alone"), st.lists(ITEM, max_size=3)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("compute"), st.integers(1, 3)),
    st.tuples(st.just("pass time"), st.integers(1, 20)),
    st.tuples(st.just("let the loop run"), st.integers(1, 5)),
)


@settings(deadline=None, max_examples=150)
@given(
    steps=st.lists(STEP, max_size=30),
    budget=st.integers(1, 90),
    ends=st.sampled_from(["close", "abandon"]),
    at_once=st.sampled_from([0, 0, 15, 60]),
    looks=st.booleans(),
)
async def test_every_future_resolves_and_never_with_anothers_value(steps, budget, ends, at_once, looks):
    """Any interleaving of submitting, cancelling, failing, deadlines and closing."""
    turns = threading.Semaphore(0)
    now = 0.0
    open_wide = threading.Event()

    def every_other(items, results):
        assert len(items) > 1
        assert results == [("done", key) for _, _, key in items]
        return {i: (*item[:2], ("again", item[2])) for i, item in enumerate(items) if i % 2}

    def tag_batch(items):
        if not open_wide.is_set() and threading.current_thread() is not threading.main_thread():
            turns.acquire()
        if any(kind == "boom" for _, kind, _ in items):
            raise ValueError("boom")
        return [("done", key) for _, _, key in items]

    queue = Batcher(
        tag_batch, length=lambda item: item[0], max_batch_tokens=budget, max_queue_requests=6,
        max_queue_tokens=300, max_tokens_at_once=at_once, clock=lambda: now,
        look_again=every_other if looks else None,
    )  # fmt: skip
    queue.start()
    submitted = []
    for step, value in steps:
        if step.startswith("submit"):
            items = [(*item, (len(submitted), i)) for i, item in enumerate(value)]
            deadline = now + 10 if step == "submit late" else float("inf")
            try:
                submitted.append((items, queue.submit(items, deadline, is_alone=step == "submit alone")))
            except OverloadedError:
                assert (
                    queue.n_waiting_requests == 6
                    or queue.n_waiting_tokens + sum(length for length, *_ in items) > 300
                )
        elif step == "cancel" and value < len(submitted):
            submitted[value][1].cancel()
        elif step == "compute":
            turns.release(value)
        elif step == "pass time":
            now += value
        else:
            for _ in range(value):
                await asyncio.sleep(0)
    if ends == "abandon":
        queue.abandon()
    open_wide.set()
    turns.release(1000)
    await queue.close()
    outcomes = await asyncio.gather(*(future for _, future in submitted), return_exceptions=True)
    for (items, _), outcome in zip(submitted, outcomes, strict=True):
        if isinstance(outcome, ValueError):
            assert any(kind == "boom" for _, kind, _ in items)
        elif isinstance(outcome, ClosedError):
            assert ends == "abandon"
        elif not isinstance(outcome, asyncio.CancelledError | DeadlineError):
            again = looks and len(items) > 1
            assert outcome == [
                ("done", ("again", key) if again and i % 2 else key) for i, (_, _, key) in enumerate(items)
            ]
            assert all(kind == "fine" for _, kind, _ in items)
    assert (queue.n_waiting_requests, queue.n_waiting_tokens) == (0, 0)


# What is looked at again


def reversed_again(items, results):
    """What begins with an "a" is asked again, the other way round."""
    assert results == [item.upper() for item in items]
    return {i: item[::-1] for i, item in enumerate(items) if item[0] == "a"}


@pytest.mark.parametrize("at_once", [0, 100])
async def test_a_request_s_items_are_looked_at_again_once_when_all_are_there(at_once):
    worker = Worker()
    async with batcher(worker, look_again=reversed_again, max_tokens_at_once=at_once) as queue:
        found = queue.submit(["abc", "xyz", "ad"]), queue.submit(["uvw", "xyz"]), queue.submit(["abc"])
        assert await asyncio.gather(*found) == [["CBA", "XYZ", "DA"], ["UVW", "XYZ"], ["ABC"]]
        assert queue.n_waiting_tokens == 0
    assert len(worker.batches) == 2
    assert sorted(worker.batches[1]) == ["cba", "da"]


async def test_a_second_look_counts_its_tokens_alone_and_can_be_withdrawn():
    worker = Worker(held=True)
    async with batcher(worker, look_again=reversed_again) as queue:
        future = queue.submit(["abc", "xyzxyz"])
        assert queue.n_waiting_tokens == 9
        await worker.has_begun()
        worker.pass_on.release()
        await worker.has_begun()
        assert queue.n_waiting_tokens == 3
        future.cancel()
        await asyncio.sleep(0)
        assert (queue.n_waiting_requests, queue.n_waiting_tokens) == (0, 0)
        worker.release()


async def test_closing_waits_for_a_second_look():
    worker = Worker(held=True)
    queue = batcher(worker, look_again=reversed_again)
    queue.start()
    future = queue.submit(["abc", "xyz"])
    await worker.has_begun()
    closing = asyncio.create_task(queue.close())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        queue.submit(["f"])
    worker.release()
    await closing
    assert await future == ["CBA", "XYZ"]
    assert worker.batches == [["abc", "xyz"], ["cba"]]


async def test_what_looks_again_and_fails_fails_its_request_alone():
    def fails(items, _):
        raise ValueError(items[0])

    async with batcher(Worker(), look_again=fails) as queue:
        found = await asyncio.gather(queue.submit(["a", "b"]), queue.submit(["c"]), return_exceptions=True)
        assert [str(found[0]), found[1]] == ["a", ["C"]]


# What is computed on the event loop


class Here(Worker):
    """Also says on which thread each batch was computed."""

    def __init__(self, held=False):
        super().__init__(held)
        self.threads = []

    def __call__(self, items):
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super().__call__(items)


async def test_what_came_in_one_turn_of_the_loop_is_computed_there_together():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10) as queue:
        futures = [queue.submit([c]) for c in ("a", "bb", "c")]
        assert await asyncio.gather(*futures) == [["A"], ["BB"], ["C"]]
        assert await queue.submit(["d" * 10]) == ["D" * 10]
    assert worker.batches == [["a", "bb", "c"], ["d" * 10]]
    assert worker.threads == [True, True]


async def test_who_is_alone_has_the_results_at_once():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10) as queue:
        assert queue.submit(["a", "bb"], is_alone=True).result() == ["A", "BB"]
        assert not queue.submit(["c" * 11], is_alone=True).done()
        first, second = queue.submit(["d"]), queue.submit(["e"], is_alone=True)
        assert not second.done()  # it was not
        assert await asyncio.gather(first, second) == [["D"], ["E"]]
        bad = queue.submit(["boom", "f"], is_alone=True)
        assert not bad.done()
        with pytest.raises(ValueError, match="boom"):
            await bad
        assert queue.n_waiting_requests == queue.n_waiting_tokens == 0
    assert worker.batches[0] == ["bb", "a"]
    assert worker.threads[0]


async def test_more_than_that_is_computed_there_in_batches_of_whole_requests():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10) as queue:
        futures = [queue.submit([c * 4, c]) for c in "abc"] + [queue.submit(["d" * 6])]
        assert await asyncio.gather(*futures) == [[c * 4, c] for c in "ABC"] + [["D" * 6]]
    assert worker.batches == [["aaaa", "a", "bbbb", "b"], ["cccc", "c"], ["d" * 6]]
    assert worker.threads == [True] * 3


async def test_many_such_batches_in_one_turn_or_a_large_request_are_the_thread_s():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10, is_padded=False) as queue:
        await queue.submit(["a" * 11])
        await asyncio.gather(*[queue.submit([c * 6]) for c in "bcde"])
        assert worker.threads == [False] + [True] * 4
        await asyncio.gather(*[queue.submit([c * 6]) for c in "bcdef"])
    assert set(worker.threads[5:]) == {False}


async def test_a_batch_that_fails_there_leaves_the_others_of_its_turn_as_they_are():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10) as queue:
        good, bad, other, last = (queue.submit([item]) for item in ("a" * 9, "boom", "c", "d" * 8))
        with pytest.raises(ValueError, match="boom"):
            await bad
        assert await asyncio.gather(good, other, last) == [["A" * 9], ["C"], ["D" * 8]]
    assert worker.batches[:3] == [["a" * 9], ["boom", "c"], ["d" * 8]]
    assert worker.threads[:3] == [True] * 3


async def test_beside_a_batch_of_several_requests_nothing_is_computed_on_the_loop():
    worker = Here(held=True)
    async with batcher(worker, max_tokens_at_once=10) as queue:
        large = [queue.submit([c * 6]) for c in "abcde"]
        await worker.has_begun()
        small = queue.submit(["b"])
        await asyncio.sleep(0.01)
        assert not small.done()
        worker.release()
        assert await small == ["B"]
        await asyncio.gather(*large)
    assert not any(worker.threads)


async def test_beside_a_batch_of_one_request_little_is_computed_on_the_loop():
    class HeldThread(Here):
        def __call__(self, items):
            self.held = threading.current_thread() is not threading.main_thread()
            return super().__call__(items)

    worker = HeldThread(held=True)
    async with batcher(worker, max_tokens_at_once=10) as queue:
        large = queue.submit(["a" * 6, "b" * 6])
        await worker.has_begun()
        assert await queue.submit(["c"]) == ["C"]
        assert not large.done()
        assert queue.busy_for_s() > 0  # of the thread's batch still
        worker.release()
        await large
        assert await queue.submit(["d"]) == ["D"]
    assert worker.threads == [False, True, True]


async def test_a_bad_item_computed_on_the_loop_fails_alone():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=20) as queue:
        good, bad, other = (queue.submit([item]) for item in ("a", "boom", "c"))
        assert await good == ["A"]
        assert await other == ["C"]
        with pytest.raises(ValueError, match="boom"):
            await bad
        assert await queue.submit(["d"]) == ["D"]
    assert worker.threads[0]


async def test_what_was_cancelled_in_the_same_turn_is_not_computed():
    worker = Here()
    async with batcher(worker, max_tokens_at_once=10) as queue:
        gone, stays = queue.submit(["a"]), queue.submit(["b"])
        gone.cancel()
        assert await stays == ["B"]
        alone = queue.submit(["c"])
        alone.cancel()
        await asyncio.sleep(0.01)
        assert queue.n_waiting_requests == queue.n_waiting_tokens == 0
    assert worker.batches == [["b"]]


async def test_closing_in_the_same_turn_finishes_what_was_accepted():
    worker = Here()
    queue = batcher(worker, max_tokens_at_once=10)
    queue.start()
    future = queue.submit(["a"])
    await queue.close()
    assert await future == ["A"]


async def test_a_wedged_batch_of_the_loop_s_is_no_longer_seen_once_it_is_over():
    async with batcher(Here(), max_tokens_at_once=10) as queue:
        await queue.submit(["a"])
        assert queue.busy_for_s() == 0.0
