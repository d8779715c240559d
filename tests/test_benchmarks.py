"""What the benchmarks compute from what they measure: nothing here is measured."""

from __future__ import annotations

import json
import lzma
import math
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks import bulk, load, operating_points, ranks, texts
from benchmarks.client import http_request
from benchmarks.figures import Sample, Schedule, median, percentile, ratio, slope_per_min, summary
from benchmarks.load_report import Cell, Measured, Round, markdown, ms, statuses, write
from benchmarks.mutants import mutant
from benchmarks.oddities import oddities
from benchmarks.servers import stolen_s
from benchmarks.soak import difference
from benchmarks.soak_report import Ledger, Loss, Memory, verdict
from training.corpus import Sentence
from training.metrics import SpanScores


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 2, 10, 101])
def test_a_percentile_is_numpys_by_inverted_distribution_function(n, share):
    random = Random(n)
    values = [random.uniform(0, 9) for _ in range(n)]
    assert percentile(values, share) == np.percentile(values, 100 * share, method="inverted_cdf")


def test_a_percentile_counts_those_that_were_never_answered():
    assert percentile([1.0, 2.0, math.inf, math.inf], 0.5) == 2.0
    assert percentile([1.0, 2.0, math.inf, math.inf], 0.51) == math.inf
    assert math.isnan(percentile([], 0.5))
    with pytest.raises(ValueError, match="share is 99"):
        percentile([1.0], 99)


def test_medians_and_ratios_leave_out_what_was_not_measured():
    assert median([3.0, math.nan, 1.0, 2.0]) == 2.0
    assert median([1.0, math.inf]) == math.inf
    assert math.isnan(median([]))
    assert ratio([2.0, 9.0, 8.0], [1.0, 3.0, 0.0]) == 2.5


def test_a_slope_is_that_of_the_line_through_the_points():
    assert slope_per_min([0, 30, 60], [5.0, 6.0, 7.0]) == pytest.approx(2)
    assert slope_per_min([0, 30, 60, 90], [5.0, 7.0, 5.0, 7.0]) == pytest.approx(0.8)
    assert math.isnan(slope_per_min([1, 1], [5.0, 6.0]))
    with pytest.raises(ValueError, match="2 times for 1 values"):
        slope_per_min([0, 1], [5.0])


@pytest.mark.parametrize(
    ("rate_per_s", "seconds", "n"), [(10, 1, 10), (3, 1.5, 5), (0.1, 1, 1), (1000, 0.3, 300)]
)
def test_an_open_loop_sends_so_many_and_each_when_it_is_due(rate_per_s, seconds, n):
    schedule = Schedule(rate_per_s, seconds)
    assert schedule.n == n
    assert schedule.n_due(-1) == 0
    assert schedule.n_due(1e9) == n
    for number in range(n):
        assert schedule.n_due(schedule.due_s(number)) == number + 1
        assert schedule.n_due(schedule.due_s(number) - 1e-6) == number
        assert schedule.due_s(number) < seconds


def test_an_open_loop_without_a_rate_is_an_error():
    for rate_per_s, seconds in ((0, 1), (math.inf, 1), (1, -1)):
        with pytest.raises(ValueError, match="more than 0 are expected"):
            Schedule(rate_per_s, seconds)


def test_a_latency_counts_from_when_the_request_was_due_and_only_the_window_counts():
    samples = [
        Sample(0.5, 0.6, 200),  # before the window
        Sample(0.9, 1.2, 200),  # answered in it
        Sample(1.0, 1.3, 200),
        Sample(1.1, 2.8, 200),  # answered too late to be good
        Sample(1.2, 1.25, 429),
        Sample(1.3, 9.0, 0),
        Sample(1.4, 1.5, -1),
        Sample(2.9, 3.5, 200),  # due in it
    ]
    found = summary(samples, (1.0, 3.0), good_within_s=1.0)
    assert found.statuses == {-1: 1, 0: 1, 200: 3, 429: 1}
    assert found.per_s == 3 / 2
    assert found.good_per_s == 2 / 2
    assert found.p50_s == pytest.approx(1.7)
    assert found.p99_s == math.inf
    assert found.refused_p99_s == pytest.approx(0.05)


def cell(system="nametag", n=1, kind="closed", level=8.0, number=0, per_s=100.0, **fields):
    given = {
        "offered_per_s": 0.0, "statuses": {200: 100}, "good_per_s": per_s, "p50_s": 0.01, "p99_s": 0.02,
        "refused_p99_s": math.nan, "n_without_retry_after": 0, "late_p99_s": 0.0001, "client_cpus": 0.2,
        "server_cpus": (0.5,),
    }  # fmt: skip
    return Cell(system, n, kind, level, number, per_s=per_s, **{**given, **fields})


def some_rounds():
    """Three rounds; in the second all is half as fast, as when something else runs."""
    found = []
    for number, speed in enumerate((1.0, 0.5, 1.1)):
        cells = [
            cell(level=1, number=number, per_s=400 * speed),
            cell(level=8, number=number, per_s=900 * speed),
            cell("spacy", level=1, number=number, per_s=90 * speed),
            cell(n=32, number=number, per_s=50 * speed),
            cell("spacy", n=32, number=number, per_s=5 * speed),
            cell(kind="open", level=3, number=number, per_s=800 * speed, offered_per_s=2700 * speed,
                 statuses={200: 30, 429: 70}, refused_p99_s=0.003),
            cell("spacy", kind="open", level=3, number=number, per_s=80, good_per_s=1, offered_per_s=270,
                 statuses={0: 60, 200: 40}, p99_s=math.inf),
            cell(kind="alone", level=0.2, number=number),
            cell(kind="beside", level=0.2, number=number, p99_s=0.05),
        ]  # fmt: skip
        found.append(Round(tuple(cells), {"nametag": 400_000_000, "spacy": 350_000_000}, 4_000 * speed))
    return found


def test_a_ratio_is_that_of_the_best_rates_of_each_round():
    measured = Measured(tuple(some_rounds()))
    assert measured.capacities("nametag", 1) == pytest.approx([900, 450, 990])
    assert measured.ratio("spacy", 1) == pytest.approx(10)
    assert [m.per_s for m in measured.find("nametag", 1, "closed")] == pytest.approx([400, 900])
    (over,) = measured.find("nametag", 1, "open")
    assert over.statuses == {200: 90, 429: 210}


def test_the_load_report_says_what_was_measured():
    lines = markdown(Measured(tuple(some_rounds()))).splitlines()
    assert "| Nametag | 400 (10.0, 20.0) | 900 (10.0, 20.0) |" in lines
    assert "| spaCy sm, FastAPI | 90 (10.0, 20.0) | – |" in lines
    assert "| Nametag | 3 | 2,700 | 800 | 10.0 | 20.0 | 3.0 | 200 30 %, 429 70 % |" in lines
    assert "| spaCy sm, FastAPI | 3 | 270 | 1 | 10.0 | never | – | unanswered 60 %, 200 40 % |" in lines
    assert "| spaCy sm, FastAPI | 90 (10.00) | 5 (10.00) | 350 |" in lines
    text = "\n".join(lines)
    assert "answered in time is 0.89 of the capacity" in text
    assert "p99 20.0 ms; while a request of 10,000 sentences is answered: p50 10.0 ms, p99 50.0 ms" in text
    assert "1,600 sentences/s are 0.40 of the 4,000" in text


def test_the_load_report_is_files_that_can_be_read(tmp_path):
    where = {"cpu": "a CPU", "cores": [0, 1], "load_1_min": 0.0, "date": "2026-11-21"}
    options = {"seconds": 1.0, "workers": 2, "n_sentences": 10, "texts": "nothing"}
    content = write(tmp_path, some_rounds(), where, options)
    assert (tmp_path / "load.md").read_text("utf-8") == content
    record = json.loads((tmp_path / "load.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert record["nametag_is_times"]["spacy"] == pytest.approx({"1": 10, "32": 10})
    for name in ("throughput-1", "latency-1"):
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_figures_are_written_as_people_read_them():
    assert [ms(s) for s in (0.00041, 0.25, 12.0, math.inf, math.nan)] == [
        "0.4",
        "250",
        "12,000",
        "never",
        "–",
    ]
    assert statuses({-1: 1, 200: 999}) == "lost 0.1 %, 200 99.9 %"


@pytest.mark.parametrize(("minutes", "n"), [(12.0, 3), (100.0, 5), (1e-9, 1)])
def test_rounds_end_when_there_is_no_time_for_another(minutes, n):
    plan = load.Plan(Path(), 2, "", 1.0, 1.0, 5, minutes, (1,), (1,), (), ())
    now = 0.0

    def measure(number):
        nonlocal now
        now += 200
        return Round((), {}, number)

    assert len(load.rounds(plan, measure, lambda: now)) == n


def test_the_sentences_are_the_same_each_time_and_the_projects_own_without_the_sets(tmp_path):
    found = texts.real_sentences(tmp_path, seed=1)
    assert found == texts.real_sentences(tmp_path, seed=1)
    assert found != texts.real_sentences(tmp_path, seed=2)
    assert found.source == "training/people and tests/behaviour"
    assert len(found.sentences) > 1_000
    assert all(found.sentences)


def test_sentences_are_dealt_to_requests_once_each():
    assert texts.groups("abcdefg", 3) == [["a", "b", "c"], ["d", "e", "f"]]
    with pytest.raises(ValueError, match="2 sentences for requests of 3"):
        texts.groups("ab", 3)


def test_every_request_says_how_long_it_is():
    for request in (
        http_request("/v1/tag", "é".encode()), texts.tag_request(["Zoë"]),
        texts.spacy_request(["Zoë", "b"]), texts.presidio_request(["Zoë"]),
        texts.presidio_request(["Zoë", "b"]),
    ):  # fmt: skip
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head


def test_mutants_and_oddities_are_the_same_for_the_same_seed():
    assert [mutant(3, i) for i in range(200)] == [mutant(3, i) for i in range(200)]
    assert mutant(3, 5) != mutant(4, 5)
    assert oddities(1) == oddities(1)
    names = [odd.name for odd in oddities(1)]
    assert len(set(names)) == len(names)


def test_a_difference_between_answers_is_found_and_nothing_is_quoted():
    expected = [[("Ada", "B-PER", 0.9), ("left", "O", 0.99)], []]
    tokens = [
        {"text": "Ada", "label": "B-PER", "score": 0.90009},
        {"text": "left", "label": "O", "score": 0.99},
    ]
    assert difference([{"tokens": tokens}, {"tokens": []}], expected) is None
    assert difference([{"tokens": tokens}], expected) == "1 sentences, 2 are expected"
    for change in ({"label": "O"}, {"score": 0.9002}, {"score": math.nan}, {"text": "Eve"}):
        wrong = difference([{"tokens": [tokens[0] | change, tokens[1]]}, {"tokens": []}], expected)
        assert wrong is not None
        assert wrong.startswith("sentence 0, token 0: ")
        assert "Ada" not in wrong
        assert "Eve" not in wrong


def test_a_connection_may_be_lost_only_while_a_worker_is_killed():
    kills_s = [10.0, 20.0]
    assert Loss("single", 9.0, 10.5).is_excused(kills_s)
    assert not Loss("single", 10.5, 11.0).is_excused(kills_s)  # opened after it
    assert not Loss("single", 9.0, 9.5).is_excused(kills_s)
    assert Loss("slow writer", 19.0, 40.0).is_excused(kills_s)  # noticed late


def test_a_soak_forgives_a_refusal_and_not_many():
    ledger = Ledger()
    for _ in range(99):
        ledger.answered("single", 200, 200)
    assert not ledger.answered("single", 504, 200)
    assert verdict(ledger, memory_of(a=0.0), 600.0, 240.0)["passed"]
    assert not ledger.answered("single", 429, 200)
    assert verdict(ledger, memory_of(a=0.0), 600.0, 240.0)["failures"] == [
        "2 of 101 refused: at most 1% is expected"
    ]


def test_a_soak_forgives_a_killed_process_the_refusal_that_it_owed():
    ledger = Ledger()
    for _ in range(99):
        ledger.answered("single", 200, 200)
    assert not ledger.answered("17 MiB", 503, 413)
    assert verdict(ledger, memory_of(a=0.0), 600.0, 240.0)["passed"]
    assert not ledger.answered("17 MiB", 504, 413)
    assert verdict(ledger, memory_of(a=0.0), 600.0, 240.0)["failures"] == [
        "17 MiB: status 504, 413 is expected"
    ]


def memory_of(**mb_per_s):
    """600 seconds of workers that begin at 100 MB and grow."""
    times = [float(t) for t in range(601)]
    rss = {i: [int(1e6 * (100 + t * mb)) for t in times] for i, mb in enumerate(mb_per_s.values())}
    return Memory(dict.fromkeys(rss, times), rss)


def test_a_soak_passes_only_if_nothing_was_wrong():
    flat = memory_of(a=0.0, b=0.01)
    assert verdict(Ledger(), flat, 600.0, 240.0)["passed"]
    ledger = Ledger()
    assert ledger.answered("single", 200, 200)
    assert not ledger.answered("single", 500, 200)
    report = verdict(ledger, flat, 600.0, 240.0)
    assert not report["passed"]
    assert report["failures"] == ["single: status 500, 200 is expected"]
    assert report["requests"] == {"single": {200: 1, 500: 1}}
    lost = Ledger(losses=[Loss("single", 1.0, 2.0)])
    assert not verdict(lost, flat, 600.0, 240.0)["passed"]
    lost.kills_s.append(1.5)
    assert verdict(lost, flat, 600.0, 240.0)["passed"]


def test_memory_that_grows_fails_a_soak_that_is_long_enough_to_tell():
    growing = memory_of(a=0.0, b=0.05)
    report = verdict(Ledger(), growing, 600.0, 240.0)
    assert not report["passed"]
    slopes = report["memory"]["slopes_mb_per_min"]
    assert slopes == pytest.approx({"0": 0, "1": 3, "all": 3}, abs=1e-3)
    assert len(report["failures"]) == report["n_failures"] == 2  # the worker, and all together
    report = verdict(Ledger(), growing, 600.0, 400.0)
    assert report["passed"]
    assert not report["memory"]["is_judged"]


def test_memory_in_sum_leaves_out_when_a_worker_was_being_started():
    memory = Memory({1: [0, 1, 2], 2: [0, 2]}, {1: [10, 11, 12], 2: [20, 22]})
    assert memory.total() == Memory({0: [0, 2]}, {0: [30, 34]})


def test_a_set_becomes_texts_of_its_documents():
    sentences = [Sentence((f"w{i}", "."), ("O", "O"), document=f"d{i // 30}") for i in range(50)]
    found = operating_points.texts_of(sentences)
    assert [text.count("\n") + 1 for text in found] == [20, 10, 20]
    assert found[1].split("\n")[0] == "w20 ."
    assert operating_points.n_words(found) == 100


def test_texts_are_dealt_to_every_round():
    assert operating_points.dealt("abcde", 2) == [["a", "c", "e"], ["b", "d"]]
    with pytest.raises(ValueError, match="1 texts for 2 rounds"):
        operating_points.dealt(["a"], 2)


def test_the_operating_points_are_a_table_and_a_plot():
    about = {"versions": {}, "size_bytes": 25e6, "batch_sizes": [1]}
    ours = operating_points.Measured("model", about | {"name": "ours"}, batch_size=1)
    its = operating_points.Measured("spacy", about | {"name": "spaCy"}, batch_size=1)
    for one, correct, rates in ((ours, 9, [900.0, 500.0, 910.0]), (its, 6, [100.0, 50.0, 91.0])):
        one.sets["news"] = SpanScores(10, 10, correct)
        one.words_per_cpu_s = one.words_per_wall_s = rates
    assert ours.times(its) == 10
    table = operating_points.markdown([ours, its])
    assert "| ours | 90.0 | 900 | 10.0 | 25.0 | 0 |" in table
    assert "| news | 90.0 | 60.0 |" in table
    record = operating_points.as_json([ours, its], {}, 1, 2)
    assert [system["times_spacy"] for system in record["systems"]] == [10, 1]
    assert ElementTree.fromstring(operating_points.plot([ours, its])).tag.endswith("svg")


def test_what_is_measured_beside_a_run_every_minute_costs_it_no_time(monkeypatch):
    monkeypatch.setattr(bulk, "_WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(bulk, "_STOP_EVERY_S", 0.1)
    states = []
    with subprocess.Popen(["sleep", "0.5"], start_new_session=True) as process:
        run = bulk.Run(process)

        def beside() -> None:
            time.sleep(0.3)
            states.append(Path(f"/proc/{process.pid}/stat").read_text("utf-8").split()[2])

        run.watch(beside)
    assert states
    assert set(states) == {"T"}
    assert run.stopped_s >= 0.3 * len(states)
    assert run.times_s[-1] > run.seconds > 0


def test_a_bulk_has_a_rate_beside_that_in_memory_and_what_differs_is_found(
    tiny_artefact, tmp_path, monkeypatch
):
    monkeypatch.setattr(bulk, "_STOPPED_S", 0.3)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b"Jane met Ann.\n\nNobody came.\n" * 99))
    arguments = ["--raw", tmp_path, "--model", tiny_artefact, "--engines", "local", "--workers", 1]
    arguments += ["--bytes", 100_000, "--kills", 0, "--out", tmp_path / "out"]
    assert bulk.main([str(each) for each in arguments]) == 0
    assert {path.suffix for path in (tmp_path / "out" / "corpus").iterdir()} == {".txt", ".jsonl", ".gz"}
    found = json.loads((tmp_path / "out" / "report.json").read_bytes())["engines"]["local"]
    assert found["differing"] == []
    assert 0 < found["mb_per_s"] < found["one_in_memory_mb_per_s"]
    out = tmp_path / "out" / "local"
    shutil.copytree(out, tmp_path / "other")
    (tmp_path / "other" / "000.txt.jsonl").write_bytes(b"")
    assert bulk.differing(out, tmp_path / "other") == ["000.txt.jsonl"]


def test_processes_are_compared_by_the_median_epoch_and_the_last_score():
    runs = [
        ranks.Trained(1, 1, (9.0, 4.0, 4.0), (0.1, 0.2, 0.8)),
        ranks.Trained(2, 1, (9.0, 2.0, 2.0), (0.1, 0.2, 0.7)),
        ranks.Trained(1, 2, (9.0, 5.0, 4.0), (0.1, 0.2, 0.9)),
    ]
    assert ranks.summary(runs, 1, 400) == {"sentences_per_s": 100.0, "dev_f1": 85.0}
    assert ranks.summary(runs, 2, 400) == {"sentences_per_s": 200.0, "dev_f1": 70.0}


def test_stolen_seconds_are_those_of_one_cpu():
    assert stolen_s(0) >= 0
    with pytest.raises(ValueError, match="cpu 9999"):
        stolen_s(9999)
