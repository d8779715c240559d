"""python benchmarks/capacity.py measure | check | plan | plot: how many replicas, for what, at what price.

    measure   the costs of one core with one model, and of starting it          → OUT/costs.json
    check     real runs at shares of the capacity, beside simulated ones        → OUT/check.json, a table
    plan      from costs.json: replicas for a p99, a bulk, a GPU, one queue or many → Markdown
    plot      p99 against load: costs.json simulated, check.json as points      → OUT/capacity.svg

The service is simulated by benchmarks/capacity_model.py; how it is measured stands in capacity_measure.py.
`check` adds to what is there, so that it can be called at several times of a day. Needs ".[dev]".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from benchmarks import capacity_measure as measuring  # noqa: E402
from benchmarks import capacity_plan as planning  # noqa: E402
from benchmarks import capacity_report as report  # noqa: E402
from benchmarks.capacity_model import Costs, Design  # noqa: E402
from benchmarks.capacity_plan import Profile, Texts  # noqa: E402
from benchmarks.capacity_traffic import STEADY, Bursts, Lengths  # noqa: E402
from benchmarks.operating_points import machine  # noqa: E402
from model.tagger import Tagger  # noqa: E402

LOADS = (0.5, 0.8, 0.95)
_IN_PROCESS = 1_500  # documents
_SENTENCES = 2_000  # whose lengths are kept for plans
_CURVE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; measure and check write such files") from None


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _lengths(given: argparse.Namespace) -> Lengths:
    return Lengths(given.median_words, given.sigma)


def _bursts(given: argparse.Namespace) -> Bursts:
    return Bursts(given.burst_times, given.burst_share, given.burst_seconds)


def _in_process(given: argparse.Namespace) -> tuple[Costs, measuring.Source]:
    with measuring.only_on(given.cpus[:1]):
        tagger, other = (
            Tagger.load(given.model, device="cpu", backend="auto", threads=1) for _ in range(2)
        )
        words = measuring.words_of(given.texts, given.seed)
        source = measuring.Source(other, words, _lengths(given), given.seed)
        costs = measuring.in_process(tagger, source, _IN_PROCESS, given.seed)
    say(f"in process: {_shown(costs)}")
    return costs, source


def _shown(costs: Costs) -> str:
    ratios = ("cold", "together")
    shown = (
        f"{name} {value if name in ratios else 1e6 * value:.2f}" for name, value in asdict(costs).items()
    )
    return ", ".join(shown) + " (us)"


def _calibrated(
    given: argparse.Namespace, place: measuring.Place, source: measuring.Source, costs: Costs
) -> tuple[Costs, list[measuring.Level]]:
    workers = place.design.workers
    # Word types cached, as those of a service that has run for a while.
    measuring.level(place, source, 8 * workers, 4.0)
    levels = [
        measuring.level(place, source, clients * workers if clients > 1 else 1, given.calibrated)
        for clients in measuring.LEVELS
    ]
    place.design = measuring.with_guests(place.design, levels)
    most_per_s = levels[-1].per_s
    alone = measuring.seldom(place, source, 0.1 * most_per_s, 4 * given.calibrated, given.seed)
    alone += measuring.seldom(
        place, source, measuring.LARGE_SHARE * most_per_s, 4 * given.calibrated, given.seed, measuring.LARGE
    )
    found = measuring.calibrated(costs, alone, levels, place.design)
    for each in levels:
        per_s = each.simulated_per_s(found, place.design)
        say(f"{each.clients} clients: {each.per_s:.0f}/s, simulated {per_s:.0f}/s")
    say(f"calibrated: {_shown(found)}; {place.design}")
    return found, levels


def measure(given: argparse.Namespace) -> None:
    costs, source = _in_process(given)
    with measuring.arranged(given.model, given.cpus[:1]) as place:
        found, levels = _calibrated(given, place, source, costs)
    documents = [document for each in levels for document in each.documents]
    n_words = sum(each.n_words for each in levels)
    texts = Texts(
        tuple(length for document in documents for length in document.lengths)[:_SENTENCES],
        sum(each.n_tokens for each in documents) / n_words,
        sum(each.n_bytes for each in documents) / n_words,
        levels[0].answer_bytes_a_token,
    )
    record = {
        "machine": machine(given.cpus[0]), "options": _options(given), "costs": asdict(found),
        "in_process": asdict(costs),
        "levels": [
            {"clients": each.clients, "per_s": each.per_s,
             "simulated_per_s": each.simulated_per_s(found, place.design)} for each in levels
        ],
        "cold_start_s": place.cold_start_s, "texts": asdict(texts),
    }  # fmt: skip
    write_json(given.out / "costs.json", record)


def _options(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": given.model.name, "texts": given.texts.name if given.texts else "the labelled sets",
        "median_words": given.median_words, "sigma": given.sigma, "seed": given.seed,
    }  # fmt: skip


def check(given: argparse.Namespace) -> None:
    costs, source = _in_process(given)
    path = given.out / "check.json"
    runs = read_json(path)["runs"] if path.exists() else []
    with measuring.arranged(given.model, given.cpus) as place:
        costs, _ = _calibrated(given, place, source, costs)
        for number in range(given.rounds):
            for run in measuring.checked(
                place, source, costs, given.loads, given.seconds, given.speed, _bursts(given),
                100 * given.seed + number,
            ):  # fmt: skip
                runs.append(run | {"costs": asdict(costs), "seed": given.seed, "round": number})
                say(report.line(run))
                record = {"machine": machine(given.cpus[0]), "options": _options(given), "runs": runs}
                write_json(path, record)
    print(report.checked(runs))


def _measured(given: argparse.Namespace) -> tuple[dict[str, Any], Costs, Texts]:
    record = read_json(given.costs or given.out / "costs.json")
    texts = record["texts"] | {"sentence_lengths": tuple(record["texts"]["sentence_lengths"])}
    return record, Costs(**record["costs"]), Texts(**texts)


def plan(given: argparse.Namespace) -> None:
    record, costs, texts = _measured(given)
    lengths = _lengths(given)
    bursty = _bursts(given) if given.burst_times > 1 else Bursts(3.0, 0.1, 0.25)
    targets_s = [ms / 1e3 for ms in given.p99_ms]
    found = {}
    for name, bursts in (("Poisson", STEADY), (f"{bursty.times:g} times in bursts", bursty)):
        profile = Profile(given.rate, lengths, bursts)
        found[name] = planning.needed(costs, texts, profile, targets_s, given.simulated, given.seed)
        say(f"{name}: {found[name]}")
    print(report.replicas(found, given.rate, given.core_hour))
    by_workers = planning.queues(costs, texts, lengths, 0.8, given.workers, given.simulated, given.seed)
    print("\n" + report.queues(by_workers))
    by_load = planning.sensitivity(
        costs, texts, lengths, LOADS, (0.9, 0.95, 1.0, 1.05, 1.1), 10 * given.simulated, given.seed
    )
    print("\n" + report.sensitivity(by_load))
    bulk = planning.bulk(costs, texts, lengths, given.seed)
    print("\n" + report.in_bulk(bulk, given.documents, given.cores, given.core_hour))
    least = planning.gpu_words_per_s(bulk, given.core_hour, given.gpu_hour)
    print(
        f"- a core tags {bulk.words / bulk.core_s:,.0f} words/s; a GPU at {given.gpu_hour:g} an hour pays "
        f"from {least:,.0f} words/s on, {given.gpu_hour / given.core_hour:,.0f} times as many"
    )
    print(f"- a replica answers {record['cold_start_s']:.1f} s after it is started")


def plot(given: argparse.Namespace) -> None:
    _, costs, texts = _measured(given)
    path = given.out / "check.json"
    runs = read_json(path)["runs"] if path.exists() else []
    lengths = _lengths(given)
    per_s = planning.capacity_per_s(costs, texts.documents(lengths, 10_000, given.seed))
    curves = {}
    for workers, name in ((1, "1 replica, simulated"), (2, "2 replicas, simulated"), (16, "16, simulated")):
        curves[name] = [
            (load, planning.p99_s(planning.simulated(
                costs, texts, Profile(load * workers * per_s, lengths), Design(workers=workers),
                max(given.simulated, 60.0 / workers), given.seed,
            )))
            for load in _CURVE
        ]  # fmt: skip
        say(f"{name}: {curves[name]}")
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "capacity.svg").write_text(report.plot(curves, runs) + "\n", encoding="utf-8")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["measure", "check", "plan", "plot"])
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "capacity")
    parser.add_argument("--seed", type=int, default=0)
    profile = parser.add_argument_group("what is asked")
    profile.add_argument("--texts", type=Path, help="a text to take documents from, .txt or .txt.xz")
    profile.add_argument("--median-words", type=float, default=Lengths.median, help="of documents")
    profile.add_argument("--sigma", type=float, default=Lengths.sigma, help="of their logarithm")
    profile.add_argument("--burst-times", type=float, default=1.0, help="the rate in bursts; 1: Poisson")
    profile.add_argument("--burst-share", type=float, default=0.1, help="of the time")
    profile.add_argument("--burst-seconds", type=float, default=0.25, help="of a burst, on average")
    real = parser.add_argument_group("measure and check")
    real.add_argument("--cpus", type=int, nargs="+", default=[0], help="of check: each replica's, in order")
    real.add_argument("--loads", type=float, nargs="+", default=list(LOADS), help="of the capacity")
    real.add_argument("--seconds", type=float, default=15.0, help="of a run that is checked")
    real.add_argument("--speed", type=float, default=5.0, help="seconds to find how fast it is just now")
    real.add_argument("--calibrated", type=float, default=2.0, help="seconds of each closed loop at first")
    real.add_argument("--rounds", type=int, default=1)
    plans = parser.add_argument_group("plan and plot")
    plans.add_argument("--costs", type=Path, help="costs.json; default: the one in --out")
    plans.add_argument("--rate", type=float, default=10_000.0, help="requests a second")
    plans.add_argument("--p99-ms", type=float, nargs="+", default=[50.0, 100.0, 250.0])
    plans.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    plans.add_argument("--simulated", type=float, default=6.0, help="seconds of a simulation")
    plans.add_argument("--documents", type=float, default=1e9, help="of the bulk")
    plans.add_argument("--cores", type=int, nargs="+", default=[16, 256, 4096], help="of the bulk")
    plans.add_argument("--core-hour", type=float, default=0.04, help="price of a core for an hour")
    plans.add_argument("--gpu-hour", type=float, default=2.0, help="price of a GPU for an hour")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _arguments()
    given = parser.parse_args(arguments)
    given.model = given.model.resolve()
    try:
        {"measure": measure, "check": check, "plan": plan, "plot": plot}[given.what](given)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
