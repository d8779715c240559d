"""A tagger and marked sentences in, pass rates by phenomenon out.

A case passes where exactly its persons come out of its text, which goes the way of the service's
``{"text": …}``: tokeniser, sentence splitter, tagger. A pair passes where both its cases do: a
tagger that calls every capitalised word a person, or none, passes no pair (Gardner et al. 2020,
arXiv:2004.02709, section 2.3, "contrast consistency").
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.labels import PERSON
from model.tagger import Tagger
from training.cases import VARIANTS, Case, Offsets, marked, pairs, read_cases, variants
from training.metrics import SpanScores

ORIGINS = "origins"  # the phenomenon whose headings are the names' origins
FLOOR_STEP = 5  # per cent


@dataclass(frozen=True, slots=True)
class Outcome:
    """A case, and the persons that the tagger found in its text."""

    case: Case
    found: tuple[Offsets, ...]

    @property
    def passed(self) -> bool:
        return self.found == self.case.spans

    def __str__(self) -> str:
        expected = marked(self.case.text, self.case.spans)
        return f"{self.case.place}\n  expected {expected}\n  found    {marked(self.case.text, self.found)}"


@dataclass(frozen=True, slots=True)
class PassRate:
    """Of some cases: how many passed, alone and in pairs, and their spans' scores."""

    n_cases: int
    n_passed: int
    n_pairs: int
    n_pairs_passed: int
    n_false_finds: int  # persons found in the cases that have none
    spans: SpanScores

    @property
    def floor(self) -> int:
        """The pass rate in per cent, rounded down to a multiple of FLOOR_STEP."""
        return 100 * self.n_passed // self.n_cases // FLOOR_STEP * FLOOR_STEP

    def as_json(self) -> dict[str, Any]:
        shares = {name: getattr(self.spans, name) for name in ("precision", "recall", "f1")}
        return {
            **asdict(self),
            "pass_rate": self.n_passed / self.n_cases,
            "spans": {**asdict(self.spans), **shares},
        }


def persons_in(tagger: Tagger, texts: Sequence[str]) -> list[tuple[Offsets, ...]]:
    """The persons of each text, as offsets; at the tagger's own threshold."""
    return [
        tuple(
            (tokens.starts[one.span.start], tokens.ends[one.span.end - 1])
            for tokens, answer in found
            for one in answer.spans
            if one.span.entity_type == PERSON
        )
        for found in tagger.tag_texts(texts)
    ]


def outcomes(tagger: Tagger, cases: Sequence[Case]) -> list[Outcome]:
    """What the tagger makes of each case, in order."""
    return [Outcome(*one) for one in zip(cases, persons_in(tagger, [c.text for c in cases]), strict=True)]


def pass_rate(found: Sequence[Outcome]) -> PassRate:
    """Over these outcomes; at least one."""
    both = [found[a].passed and found[b].passed for a, b in pairs(one.case for one in found)]
    return PassRate(
        n_cases=len(found),
        n_passed=sum(one.passed for one in found),
        n_pairs=len(both),
        n_pairs_passed=sum(both),
        n_false_finds=sum(len(one.found) for one in found if not one.case.spans),
        spans=SpanScores(
            n_gold=sum(len(one.case.spans) for one in found),
            n_predicted=sum(len(one.found) for one in found),
            n_correct=sum(len({*one.case.spans} & {*one.found}) for one in found),
        ),
    )


def _by(found: Iterable[Outcome], key: Callable[[Case], str]) -> dict[str, PassRate]:
    grouped: dict[str, list[Outcome]] = {}
    for one in found:
        grouped.setdefault(key(one.case), []).append(one)
    return {name: pass_rate(group) for name, group in grouped.items()}


@dataclass(frozen=True)
class Behaviour:
    """What a model makes of the whole suite."""

    model: str
    version: str
    threshold: float
    plain: tuple[Outcome, ...]  # the cases as they are written
    variants: dict[str, tuple[Outcome, ...]]  # by the variant's name; those that some case has

    @property
    def phenomena(self) -> dict[str, PassRate]:
        return _by(self.plain, lambda case: case.phenomenon)

    @property
    def origins(self) -> dict[str, PassRate]:
        return _by([o for o in self.plain if o.case.phenomenon == ORIGINS], lambda case: case.heading)

    def floors(self) -> str:
        """The TOML table that tests/test_behaviour.py holds a model to, of this one's rates."""
        rates = {name: pass_rate(found) for name, found in self.variants.items()}
        lines = ["# Least pass rates in per cent: python -m training behaviour MODEL --floors THIS_FILE"]
        for title, table in (("phenomena", self.phenomena), ("variants", rates)):
            lines += ["", f"[{title}]", *(f'"{name}" = {rate.floor}' for name, rate in table.items())]
        return "\n".join(lines) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Figures only, no case."""
        no_person = [one for one in self.plain if not one.case.spans]
        return {
            "model": self.model,
            "version": self.version,
            "threshold": self.threshold,
            "all": pass_rate(self.plain).as_json(),
            "phenomena": {name: rate.as_json() for name, rate in self.phenomena.items()},
            "variants": {name: pass_rate(found).as_json() for name, found in self.variants.items()},
            "origins": {name: rate.as_json() for name, rate in self.origins.items()},
            "no_person": {
                "n_cases": len(no_person),
                "n_cases_with_finds": sum(not one.passed for one in no_person),
                "n_false_finds": sum(len(one.found) for one in no_person),
            },
        }


def behaviour(tagger: Tagger, cases: Sequence[Case]) -> Behaviour:
    """Runs the suite: the cases as written, and in every variant."""
    return Behaviour(
        model=tagger.config.name,
        version=tagger.config.version,
        threshold=tagger.config.threshold,
        plain=tuple(outcomes(tagger, cases)),
        variants={
            name: tuple(outcomes(tagger, changed))
            for name in VARIANTS
            if (changed := variants(cases, name))
        },
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _row(name: str, rate: Mapping[str, Any]) -> str:
    passed_pairs = _percent(rate["n_pairs_passed"] / rate["n_pairs"]) if rate["n_pairs"] else "–"
    spans = rate["spans"]
    cells = [
        name.replace("_", " "),
        f"{rate['n_cases']:,}",
        _percent(rate["pass_rate"]),
        passed_pairs,
        f"{spans['n_gold']:,}",
        *(_percent(spans[share]) if spans["n_gold"] else "–" for share in ("precision", "recall", "f1")),
        f"{rate['n_false_finds']:,}",
    ]
    return f"| {' | '.join(cells)} |"


def markdown(figures: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown that show what ``as_json`` gives. Raises KeyError or TypeError for other data."""
    head = "cases | passed | pairs passed | names | precision | recall | F1 | false finds |"
    rule = f"|---{'|--:' * 8}|"
    origins = sorted(figures["origins"].items(), key=lambda item: (item[1]["spans"]["recall"], item[0]))
    no_person = figures["no_person"]
    return [
        f"| phenomenon | {head}",
        rule,
        *(_row(name, rate) for name, rate in figures["phenomena"].items()),
        _row("all", figures["all"]),
        "",
        "The same sentences in other guises:",
        "",
        f"| variant | {head}",
        rule,
        *(_row(name, figures["variants"][name]) for name in VARIANTS if name in figures["variants"]),
        "",
        f"Of {no_person['n_cases']:,} sentences without a person, {no_person['n_cases_with_finds']:,} had "
        f"false finds, {no_person['n_false_finds']:,} in all.",
        "",
        "Names found, by origin, in sentences that are otherwise the same: "
        + ", ".join(
            f"{name} {rate['spans']['n_correct']}/{rate['spans']['n_gold']}" for name, rate in origins
        )
        + ".",
    ]


def run(
    *,
    model: Path,
    cases: Path,
    json_path: Path | None = None,
    floors_path: Path | None = None,
    failures: bool = False,
    device: str = "auto",
    threads: int = 1,
) -> Behaviour:
    """Runs the suite of a folder on a model folder: tables to stdout, files if asked.

    Raises ValueError (MarkupError, ArtefactError) for input that cannot be used.
    """
    written = read_cases(cases)
    print(f"{cases}: {len(written):,} cases", file=sys.stderr)
    made = behaviour(Tagger.load(model, device=device, threads=threads), written)
    if json_path:
        json_path.write_text(json.dumps(made.as_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
    if floors_path:
        floors_path.write_text(made.floors(), "utf-8")
    print("\n".join(markdown(made.as_json())))
    if failures:
        print("", *(one for one in made.plain if not one.passed), sep="\n")
    return made
