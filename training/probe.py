"""A tagger, frames and lists of names in, the share of names found out: by frame, by form and by origin.

A suite of fixed sentences says whether a case is right; a frame with hundreds of names in it says whether
it is the frame that is wrong ("{} grows potatoes": once, 1 name of 100 was found), or the names of some
country (templates as of Ribeiro et al. 2020, arXiv:2005.04118, section 2.1).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from model.tagger import Tagger
from training.behaviour import persons_in
from training.names import Names, read_names
from training.scores import aligned

SLOT = "{}"
FORMS = ("full", "given", "family")
_AT_ONCE = 2_000


@dataclass(frozen=True, slots=True)
class Probe:
    """One name in one frame, and whether exactly it was found."""

    frame: str
    form: str  # one of FORMS
    origin: str
    found: bool


def read_frames(path: Path) -> list[str]:
    """A file's frames: a line each, "\\n" in it a line break, without comments and blank lines. Raises
    ValueError for a line in which the slot does not stand once."""
    frames = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line and not line.startswith("#"):
            if line.count(SLOT) != 1:
                raise ValueError(f"{path}:{number}: {SLOT} is expected once, for the name")
            frames.append(line.replace("\\n", "\n"))
    if not frames:
        raise ValueError(f"{path}: holds no frame")
    return frames


def probes(tagger: Tagger, frames: Sequence[str], names: Names, n: int, seed: int) -> list[Probe]:
    """``n`` people, origins in turn, in every frame: whole, by their given name, by their family name."""
    rng = Random(seed)
    origins = [*names.origins]
    rng.shuffle(origins)
    people = []
    for i in range(n):
        origin = origins[i % len(origins)]
        given, family = rng.choice(names.given[origin]), rng.choice(names.family[origin])
        people.append((origin, dict(zip(FORMS, (f"{given} {family}", given, family), strict=True))))
    asked = [(frame, form, origin, by_form[form])
             for frame in frames for origin, by_form in people for form in FORMS]  # fmt: skip
    out = []
    for at in range(0, len(asked), _AT_ONCE):
        part = asked[at : at + _AT_ONCE]
        answers = persons_in(tagger, [frame.replace(SLOT, name) for frame, _, _, name in part])
        for (frame, form, origin, name), found in zip(part, answers, strict=True):
            start = frame.index(SLOT)
            out.append(Probe(frame, form, origin, (start, start + len(name)) in found))
    return out


def shares(found: Sequence[Probe], field: str) -> dict[str, dict[str, float]]:
    """By a Probe's ``field``, and within it by form and over "all": the share of the names found."""
    n: Counter[tuple[str, str]] = Counter()
    n_found: Counter[tuple[str, str]] = Counter()
    for one in found:
        for form in (one.form, "all"):
            n[getattr(one, field), form] += 1
            n_found[getattr(one, field), form] += one.found
    out: dict[str, dict[str, float]] = {}
    for (value, form), count in n.items():
        out.setdefault(value, {})[form] = n_found[value, form] / count
    return out


def _table(head: str, by: dict[str, dict[str, float]], most: int) -> str:
    worst = sorted(by.items(), key=lambda one: (one[1]["full"], one[1]["all"]))[:most]
    rows = [[head, *FORMS]]
    for value, share in worst:
        rows.append([value.replace("\n", "\\n"), *(f"{100 * share[form]:.0f}" for form in FORMS)])
    return aligned(rows)


def run(
    *, model: Path, frames: Path, names: Path, n: int, most: int, seed: int, device: str, threads: int,
    json_path: Path | None,
) -> None:  # fmt: skip
    """Prints the frames and origins of which most names are missed. Raises ValueError, ArtefactError."""
    tagger = Tagger.load(model, device=device, threads=threads)
    found = probes(tagger, read_frames(frames), read_names(names), n, seed)
    by = {field: shares(found, field) for field in ("frame", "origin")}
    every = {form: by_form["all"] for form, by_form in shares(found, "form").items()}
    print(_table("names found, per cent: frames", by["frame"], most))
    print()
    print(_table("origins", by["origin"], most))
    print()
    print("all:", ", ".join(f"{form} {100 * share:.1f}" for form, share in every.items()))
    if json_path is not None:
        json_path.write_text(
            json.dumps({"all": every, **by}, ensure_ascii=False, indent=1), encoding="utf-8"
        )
