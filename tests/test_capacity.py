"""The model of capacity beside what queueing theory says of it, and what must hold whatever the costs."""

from __future__ import annotations

import math
import statistics
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import capacity_report as report
from benchmarks.capacity_measure import fitted
from benchmarks.capacity_model import Costs, Design, Document, Run, saturate, simulate
from benchmarks.capacity_plan import Needed, Profile, Texts, bulk, gpu_words_per_s, needed, queues
from benchmarks.capacity_replay import Measured, Stretched, Track, replayed
from benchmarks.capacity_traffic import STEADY, Bursts, Lengths, arrivals
from benchmarks.figures import Times, percentile

FREE = Costs(
    request=0.0, read_byte=0.0, write_token=0.0, batch=0.0, batch_step=0.0,
    batch_token=0.0, batch_sentence=0.0, refusal=0.0,
)  # fmt: skip
# About what is measured on one core of a cloud machine.
REAL = Costs(
    request=3e-4, read_byte=2e-7, write_token=2e-6, batch=5e-4, batch_step=2e-5,
    batch_token=4e-6, batch_sentence=1e-5, refusal=3e-5, wire=2e-4,
)  # fmt: skip
MS = 1e-3
# One sentence at a time, nobody refused, and no wait for the event loop: what the closed forms speak of.
ONE_BY_ONE = Design(max_batch_tokens=1, max_tokens_at_once=0, max_requests=10**9, slice_s=1e-6)


def with_batches_of(seconds_a_token: float) -> Costs:
    return Costs(**{**vars(FREE), "batch_token": seconds_a_token})


def mean_wait_s(run: Run, service_s: list[float]) -> float:
    return statistics.fmean(
        each.latency_s - took_s for each, took_s in zip(run.outcomes, service_s, strict=True)
    )


def documents(n: int, seed: int = 0) -> list[Document]:
    """Of several sentences, with lengths as heavy-tailed as those of real ones."""
    random = Random(seed)
    found = []
    for words in Lengths(40, 1.0, 2_000).draw(n, seed):
        lengths = []
        while (left := words - sum(lengths)) > 0:
            lengths.append(min(left, 1 + int(random.expovariate(1 / 20))))
        found.append(Document(6 * words, tuple(lengths)))
    return found


def exponential(random: Random, mean: int) -> int:
    return max(1, round(random.expovariate(1 / mean)))


LENGTHS = {
    "the same (M/D/1)": lambda _: 1_000,
    "exponential (M/M/1)": lambda random: exponential(random, 1_000),
    "mostly short (M/G/1)": lambda random: 200 if random.random() < 0.9 else 8_200,
}


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(lengths, load):
    """L. Kleinrock, Queueing Systems I, 1975, equation 5.105. Batches of one, all else free."""
    random = Random(1)
    n = 40_000
    drawn = [LENGTHS[lengths](random) for _ in range(n)]
    took_s = [length * 1e-6 for length in drawn]
    mean_s, square = statistics.fmean(took_s), statistics.fmean([s * s for s in took_s])
    rate_per_s = load / mean_s
    due_s = arrivals(rate_per_s, 1.1 * n / rate_per_s, STEADY, seed=2)[:n]
    run = simulate([Document(0, (length,)) for length in drawn], due_s, with_batches_of(1e-6), ONE_BY_ONE)
    expected_s = rate_per_s * square / (2 * (1 - load))
    assert mean_wait_s(run, took_s) == pytest.approx(expected_s, rel=0.12)


def test_the_event_loop_alone_is_the_same_queue():
    """Documents of no sentence take the loop only: Lindley's recursion gives each one's wait."""
    costs = Costs(**{**vars(FREE), "request": 2 * MS, "read_byte": MS})
    due_s = arrivals(100.0, 20.0, STEADY, seed=3)
    drawn = [Document(1 + i % 3, ()) for i in range(len(due_s))]
    run = simulate(drawn, due_s, costs, Design(max_requests=10**9))
    # Not one after the other: a request's steps are in several turns. But the loop never rests
    # while it has work, so it is free again when it would be then.
    free_s, busy_s = 0.0, 0.0
    for document, due in zip(drawn, due_s, strict=True):
        free_s = max(free_s, due) + MS * (2 + document.n_bytes)
        busy_s += MS * (2 + document.n_bytes)
    assert max(each.done_s for each in run.outcomes) == pytest.approx(free_s)
    assert run.busy_s == pytest.approx(busy_s)


@pytest.mark.parametrize("workers", [2, 5])
def test_one_queue_for_several_workers_waits_as_erlang_says(workers):
    """M/M/c, Kleinrock, equation 3.40: one queue at the balancer, one request to a worker at a time."""
    random = Random(4)
    n, load, mean_s = 60_000, 0.8, 1e-3
    drawn = [exponential(random, 1_000) for _ in range(n)]
    due_s = arrivals(workers * load / mean_s, 1.1 * n * mean_s / workers / load, STEADY, seed=5)[:n]
    design = replace(ONE_BY_ONE, workers=workers, most_in_hand=1)
    run = simulate([Document(0, (length,)) for length in drawn], due_s, with_batches_of(1e-6), design)
    offered = workers * load
    last = offered**workers / math.factorial(workers) / (1 - load)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(workers)) + last)
    expected_s = waits * mean_s / (workers * (1 - load))
    assert mean_wait_s(run, [length * 1e-6 for length in drawn]) == pytest.approx(expected_s, rel=0.12)


def test_two_threads_share_a_cpu_and_none_waits_longer_than_a_slice():
    """A long batch, and requests for the loop alone meanwhile: each waits for one slice at most."""
    costs = Costs(**{**vars(FREE), "request": MS, "batch_token": 1e-4})
    due_s = [0.0, *(0.05 * n for n in range(1, 10))]
    drawn = [Document(0, (10_000,)), *[Document(0, ())] * 9]
    run = simulate(drawn, due_s, costs, Design(slice_s=3 * MS))
    assert run.outcomes[0].latency_s == pytest.approx(1.0 + 10 * MS)
    for each in run.outcomes[1:]:
        assert 1 * MS < each.latency_s <= 4 * MS + 1e-9


def test_two_cpus_of_a_core_slow_each_other_while_both_compute():
    costs = Costs(**{**vars(with_batches_of(1e-6)), "together": 0.5})
    design = Design(workers=2, sharing="round", pairs=True)
    alone, beside = Document(0, (1_000_000,)), Document(0, (250_000,))
    run = simulate([alone, beside], [0.0, 0.5], costs, design)
    # 0.5 s alone; then both at half their speed until the second is done after 0.5 s; then alone.
    assert [each.latency_s for each in run.outcomes] == pytest.approx([1.25, 0.5])
    apart = simulate([alone, beside], [0.0, 0.5], costs, Design(workers=2, sharing="round"))
    assert [each.latency_s for each in apart.outcomes] == pytest.approx([1.0, 0.25])


def test_client_and_balancer_compute_where_fewest_do_and_wait_for_a_slice_where_all_are_busy():
    costs = Costs(**{**vars(with_batches_of(1e-6)), "request": 4 * MS})
    design = Design(workers=2, sharing="round", guests=True, client_s=MS, balancer_s=2 * MS)
    long, short = Document(0, (1_000_000,)), Document(0, ())
    alone = simulate([short], [0.0], costs, design)
    assert alone.latencies_s == pytest.approx([7 * MS])
    assert alone.busy_s == pytest.approx(7 * MS)
    one_is_free = simulate([long, short], [0.0, 0.5], costs, design)
    assert one_is_free.outcomes[1].latency_s == pytest.approx(7 * MS)
    both_are_busy = simulate([long, long, short], [0.0, 0.01, 0.5], costs, design)
    # The client, the balancer, the worker, and each of the first two again, wait for a slice of 3 ms.
    assert both_are_busy.outcomes[2].latency_s == pytest.approx(22 * MS, abs=3 * MS)
    apart = simulate([long, short], [0.0, 0.5], costs, replace(design, guests=False))
    assert apart.outcomes[1].latency_s == pytest.approx(7 * MS)
    assert apart.busy_s == pytest.approx(1.008)


def test_what_comes_during_a_batch_forms_the_next():
    costs = Costs(**{**vars(FREE), "batch": 10 * MS})
    drawn = [Document(0, (20,))] * 4
    run = simulate(drawn, [0.0, 0.001, 0.002, 0.003], costs, Design(slice_s=1e-6))
    assert [each.done_s for each in run.outcomes] == pytest.approx([0.01, 0.02, 0.02, 0.02], abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    rate=st.floats(10, 3_000),
    workers=st.integers(1, 3),
    sharing=st.sampled_from(["least", "round", "random"]),
    most_in_hand=st.integers(0, 2),
    max_requests=st.integers(1, 600),
    pairs=st.booleans(),
    guests=st.booleans(),
)
def test_every_request_is_answered_or_refused_once_and_no_work_is_lost(
    seed, rate, workers, sharing, most_in_hand, max_requests, pairs, guests
):
    due_s = arrivals(rate, 0.5, Bursts(4.0, 0.1, 0.05), seed)
    drawn = documents(len(due_s), seed)
    guests_s = 2e-4 if guests else 0.0
    design = Design(
        workers=workers, sharing=sharing, most_in_hand=most_in_hand, max_requests=max_requests, pairs=pairs,
        guests=guests, client_s=guests_s / 4, balancer_s=3 * guests_s / 4,
    )  # fmt: skip
    run = simulate(drawn, due_s, REAL, design)
    assert len(run.outcomes) == len(drawn)
    assert [each.due_s for each in run.outcomes] == pytest.approx(due_s)
    assert all(each.due_s < each.done_s < math.inf for each in run.outcomes)
    assert len(run.latencies_s) + run.n_refused == len(drawn)
    answered = [d for d, each in zip(drawn, run.outcomes, strict=True) if not each.is_refused]
    # All but the batches, which differ, costs the same whoever does it; refusals cost theirs.
    least_s = sum(
        REAL.request + REAL.read_byte * d.n_bytes + (REAL.write_token + REAL.batch_token) * d.n_tokens
        for d in answered
    )
    most_s = sum(
        REAL.batch_s([length]) - REAL.batch_token * length for d in answered for length in d.lengths
    )
    refused_s = run.n_refused * REAL.request  # refused late, it has cost half of that
    beside_s = guests_s * len(drawn)
    assert least_s * 0.999 <= run.busy_s - beside_s <= (least_s + 1.3 * most_s + refused_s) * 1.001
    # Nothing is faster than alone.
    for document, each in zip(drawn, run.outcomes, strict=True):
        if not each.is_refused:
            assert each.latency_s >= REAL.request + REAL.wire + REAL.batch_token * document.n_tokens - 1e-9


def test_one_seed_gives_one_answer():
    due_s = arrivals(800.0, 2.0, Bursts(5.0, 0.1, 0.2), seed=1)
    assert due_s == arrivals(800.0, 2.0, Bursts(5.0, 0.1, 0.2), seed=1)
    assert due_s != arrivals(800.0, 2.0, Bursts(5.0, 0.1, 0.2), seed=2)
    drawn = documents(len(due_s))
    design = Design(workers=3, sharing="random")
    assert simulate(drawn, due_s, REAL, design, seed=3) == simulate(drawn, due_s, REAL, design, seed=3)
    assert simulate(drawn, due_s, REAL, design, seed=3) != simulate(drawn, due_s, REAL, design, seed=4)


def test_the_more_is_asked_the_longer_it_takes_and_the_more_workers_the_shorter():
    def p50_and_refused(load_per_s: float, workers: int) -> tuple[float, int]:
        due_s = arrivals(load_per_s, 4.0, STEADY, seed=7)
        run = simulate(documents(len(due_s)), due_s, REAL, Design(workers=workers))
        return statistics.median(run.latencies_s), run.n_refused

    by_load = [p50_and_refused(load, 1) for load in (50, 300, 600, 1_000, 3_000)]
    for (less_s, _), (more_s, _) in pairwise(by_load[:-1]):
        assert less_s < more_s
    assert [n for _, n in by_load[:2]] == [0, 0]
    assert by_load[-1][1] > 0
    by_workers = [p50_and_refused(600, workers)[0] for workers in (1, 2, 4)]
    assert by_workers == sorted(by_workers, reverse=True)


def test_too_much_is_refused_and_what_is_answered_keeps_its_rate():
    drawn = documents(20_000)
    closed = saturate(drawn, 64, 5.0, REAL, Design())
    capacity_per_s = sum(each.done_s < 5.0 for each in closed.outcomes) / 5.0
    assert closed.busy_s == pytest.approx(5.0, rel=0.01)
    due_s = arrivals(3 * capacity_per_s, 5.0, STEADY, seed=8)
    run = simulate(drawn[: len(due_s)], due_s, REAL, Design())
    assert run.n_refused > 0.4 * len(due_s)
    assert len(run.latencies_s) / run.seconds > 0.6 * capacity_per_s
    assert max(run.latencies_s) < 5.0


def test_bursts_keep_the_mean_rate_and_spread_the_counts():
    steady = arrivals(100.0, 2_000.0, STEADY, seed=1)
    bursty = arrivals(100.0, 2_000.0, Bursts(4.0, 0.1, 1.0), seed=1)

    def dispersion(due_s: list[float]) -> float:
        counts = [0] * 2_000
        for due in due_s:
            counts[int(due)] += 1
        return statistics.variance(counts) / statistics.fmean(counts)

    assert len(steady) / 2_000 == pytest.approx(100, rel=0.01)
    assert len(bursty) / 2_000 == pytest.approx(100, rel=0.08)
    assert dispersion(steady) == pytest.approx(1.0, abs=0.1)
    assert dispersion(bursty) > 20
    assert bursty == sorted(bursty)


def test_lengths_have_the_median_and_the_tail_asked_for():
    drawn = Lengths(60.0, 1.2, 5_000).draw(20_000, seed=1)
    assert statistics.median(drawn) == pytest.approx(60, rel=0.04)
    assert statistics.stdev(map(math.log, drawn)) == pytest.approx(1.2, rel=0.03)
    assert max(drawn) <= 5_000
    assert min(drawn) >= 1
    assert drawn == Lengths(60.0, 1.2, 5_000).draw(20_000, seed=1)


@pytest.mark.parametrize("wrong", [{"times": 0.5}, {"times": 11.0}, {"share": 0.0}, {"seconds": 0.0}])
def test_bursts_that_cannot_be_are_an_error(wrong):
    with pytest.raises(ValueError, match=r"bursts of .* are expected"):
        Bursts(**wrong)


def test_lengths_that_cannot_be_are_an_error():
    with pytest.raises(ValueError, match="lengths of median 0"):
        Lengths(median=0)


def test_as_many_times_as_documents_are_expected():
    with pytest.raises(ValueError, match="1 times for 2 documents: as many are expected"):
        simulate(documents(2), [0.0], REAL, Design())


def test_a_cpu_that_was_idle_is_cold_at_first():
    costs = Costs(**{**vars(with_batches_of(1e-6)), "wake": MS, "cold": 1.5})
    drawn = [Document(0, (10_000,)), Document(0, (10_000,)), Document(0, (50_000,))]
    run = simulate(drawn, [0.0, 1.0, 1.0 + 1e-6], costs, Design(max_batch_tokens=1, slice_s=1e-6))
    first, second, third = (each.latency_s for each in run.outcomes)
    assert first == pytest.approx(15 * MS)  # nobody says how long it was idle before
    assert second == pytest.approx(16.5 * MS, abs=1e-5)
    # 13.5 ms more are cold, in which 9 ms are done, and then it is warm.
    assert third == pytest.approx((16.5 + 13.5 + 41) * MS, abs=1e-5)


def test_costs_are_found_again_in_what_they_make_and_none_is_negative():
    random = Random(1)
    rows = [(1.0, random.uniform(1, 50), random.uniform(1, 1_000)) for _ in range(200)]
    made = [3e-4 + 2e-5 * steps + 1e-6 * cells for _, steps, cells in rows]
    assert fitted(rows, made) == pytest.approx([3e-4, 2e-5, 1e-6])
    falling = [1e-3 - 1e-6 * steps for _, steps, _ in rows]
    found = fitted([row[:2] for row in rows], falling)
    assert found[1] == 0
    assert found[0] == pytest.approx(1e-3, rel=0.05)


SOME = Texts((5, 20, 35), tokens_a_word=1.2, bytes_a_word=6.0, answer_bytes_a_token=90.0)


def test_documents_of_a_plan_have_the_lengths_drawn():
    words = Lengths(50, 1.0).draw(300, seed=1)
    found = SOME.documents(Lengths(50, 1.0), 300, seed=1)
    assert [each.n_tokens for each in found] == [max(1, round(1.2 * n)) for n in words]
    assert {n for each in found for n in each.lengths[:-1]} <= {5, 20, 35}
    assert all(min(each.lengths) >= 1 for each in found)


def test_a_lower_p99_needs_more_replicas_and_what_no_number_gives_is_said():
    profile = Profile(1_500.0, Lengths(40, 0.5))
    found = needed(REAL, SOME, profile, [0.05, 1e-6, 0.2], seconds=3.0, seed=1)
    assert [each.p99_s for each in found] == [0.2, 0.05, 1e-6]
    assert found[0].replicas <= found[1].replicas
    assert all(each.reached_s <= each.p99_s for each in found[:2])
    assert found[2].replicas is None


def test_one_queue_is_of_use_where_requests_take_long_and_batches_where_they_are_short():
    by_workers = queues(REAL, SOME, Lengths(40, 0.5), 0.5, [1, 4], seconds=4.0, seed=1)
    assert by_workers[4]["least"] < by_workers[4]["random"]
    assert by_workers[1]["least"] == by_workers[1]["random"]


def test_a_bulk_costs_what_its_tokens_do_and_a_gpu_pays_by_the_ratio_of_prices():
    costs = Costs(**{**vars(FREE), "batch_token": 1e-5})
    found = bulk(costs, SOME, Lengths(100, 0.0), seed=1)
    assert found.words == pytest.approx(100)
    assert found.core_s == pytest.approx(120 * 1e-5)
    assert found.bytes_in == pytest.approx(600)
    assert found.bytes_out == pytest.approx(120 * 90)
    assert found.core_hours(3e9) == pytest.approx(1_000)
    assert gpu_words_per_s(found, core_hour=0.04, gpu_hour=2.0) == pytest.approx(50 * 100 / 1.2e-3)


@pytest.mark.parametrize("rate", [300, 600])
def test_a_run_on_a_machine_now_fast_and_now_slow_is_found_again_from_its_cpu_seconds(rate):
    drawn = SOME.documents(Lengths(60, 1.0), 4_000, seed=1)
    due_s = arrivals(rate, 6.0, STEADY, seed=1)
    slow = np.array([(0.8, 1.6)[number // 12 % 2] for number in range(64)])
    real = Stretched(slow)
    run = simulate(
        drawn[: len(due_s)], list(real.work(due_s)), REAL, Design(),
        looks_s=list(real.work_s), clock=real.clock_at,
    )  # fmt: skip
    assert not run.n_refused
    done_s = real.clock([each.done_s for each in run.outcomes])
    spent_s = np.concatenate([[0.0], np.cumsum(np.diff(run.busy_at_s) * slow)])
    track = Track([100.0 + each for each in real.edges_s], list(spent_s))
    found = replayed(Measured(drawn[: len(due_s)], due_s, done_s, track, 100.0), REAL, Design())
    usual = simulate(drawn[: len(due_s)], due_s, REAL, Design()).latencies_s
    for share in (0.5, 0.9, 0.99):
        wanted = percentile(list(done_s - due_s), share)
        assert percentile(found, share) == pytest.approx(wanted, rel=0.15)
    assert percentile(usual, 0.99) < 0.7 * wanted


def test_on_a_slow_machine_the_admission_reads_the_clock_and_not_how_much_was_done():
    """Twice as slow, or all of it twice as costly: the same waits, so the same are refused."""
    drawn = SOME.documents(Lengths(60, 1.0), 7_000, seed=1)
    due_s = arrivals(1_500, 4.0, STEADY, seed=1)
    drawn = drawn[: len(due_s)]
    wanted = simulate(drawn, due_s, REAL, Design(slice_s=2 * MS))
    assert 0.1 * len(drawn) < wanted.n_refused < 0.9 * len(drawn)
    slow = Stretched(np.full(32, 2.0))
    run = simulate(
        drawn, list(slow.work(due_s)), REAL.times(0.5), Design(slice_s=MS), clock=slow.clock_at
    )  # fmt: skip
    assert run.n_refused == pytest.approx(wanted.n_refused, rel=0.02)
    found_s = [2 * each for each in run.latencies_s]
    assert percentile(found_s, 0.99) == pytest.approx(percentile(wanted.latencies_s, 0.99), rel=0.05)


def test_what_is_looked_at_again_waits_again_and_what_the_text_thread_does_too():
    alone = [Document(100, (20, 10)), Document(100, (20, 10), (10,)), Document(5_000, (20, 10))]
    once, again, apart = (simulate([each], [0.0], REAL, Design()).latencies_s[0] for each in alone)
    assert again - once == pytest.approx(REAL.batch_s([10]))
    assert apart - once == pytest.approx(REAL.read_byte * 4_900)
    costs = Costs(**{**vars(REAL), "apart": 1e-5})
    assert simulate(alone[2:], [0.0], costs, Design()).latencies_s[0] - apart == pytest.approx(30 * 1e-5)


def test_the_report_is_a_table_and_a_plot():
    ms = {"p50": 4.0, "p90": 9.0, "p99": 40.0, "mean": 5.0}
    runs = [
        {
            "workers": 1,
            "cpus": 1,
            "bursts": 1.0,
            "load": load,
            "measured_ms": ms,
            "again_ms": ms | {"p99": 48.0},
            "predicted_ms": ms | {"p99": 38.0},
            "simulated_ms": ms | {"p99": p99},
        }
        for load, p99 in ((0.5, 44.0), (0.8, 30.0), (0.5, 36.0), (0.5, 42.0))
    ]
    table = report.checked(runs)
    assert "| 1 | 50% | 3 | 4, 4 | 40, 42 | 1.05, 0.90, 1.10 | 0.95, 0.95, 0.95 | 1.20, 1.20 |" in table
    assert "| 1 | 80% | 1 | 4, 4 | 40, 30 | 0.75, 0.75, 0.75 | 0.95, 0.95, 0.95 | 1.20, 1.20 |" in table
    svg = report.plot({"1 replica": [(0.1, 0.01), (0.9, 0.1)]}, runs)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    needs = {"Poisson": [Needed(0.25, 20, 0.2), Needed(0.05, None)]}
    said = report.replicas(needs, 10_000.0, core_hour=0.036)
    assert "| Poisson | 250 ms | 20 | 200 ms | 500 | 0.020 |" in said
    assert "| Poisson | 50 ms | none suffices | | | |" in said


def test_times_are_a_schedule():
    schedule = Times((0.1, 0.1, 0.5), 1.0)
    assert [schedule.n_due(at) for at in (-1.0, 0.0, 0.1, 0.4, 0.5, 9.0)] == [0, 0, 2, 2, 3, 3]
    assert [schedule.due_s(n) for n in range(schedule.n)] == [0.1, 0.1, 0.5]
