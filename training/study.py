"""The tutorials' systems side by side: the same data for all in, one report with plots out.

Every system of training/systems.py is trained once for each seed and measured; so are the networks
of the probe. A result is a file of its own, so a study that was interrupted goes on where it stood:

    OUT/results/SYSTEM-SEED.json   OUT/probe/NETWORK-SEED.json   OUT/results.json   OUT/report.html
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from model.config import CELLS
from training.batches import LabelledSet, TypeStore
from training.fit import DevSet
from training.memory import Gradients, gradients_by_distance, scale_recurrence, windows
from training.recipe import DataConfig, Recipe, with_values
from training.study_runs import ProbeConfig, ProbeRun, Study, SystemRun, run_probe, run_system
from training.systems import System, chosen
from training.train import _fresh, _read, _sha256

_PEOPLE = Path(__file__).parent / "people"  # trained on where no file is given
PROBED = (*((cell, False) for cell in CELLS), ("lstm", True))
RADII = (0.5, 1.0, 1.5, 2.0, 4.0)  # spectral radii of a plain RNN's recurrent weights


def bundled(recipe: Recipe) -> Recipe:
    """The recipe, on the corpus that comes with the project."""
    data = (DataConfig(str(_PEOPLE / "train.jsonl")),)
    return replace(recipe, data=data, dev=(str(_PEOPLE / "test.jsonl"),))


def _kept(path: Path, settings: dict[str, Any], made: Callable[[Path], Any]) -> dict[str, Any]:
    """The result in the file, or else the one that ``made`` makes, which is then in the file.

    ``made`` is given a folder to work in, which is gone afterwards, and gives a dataclass.
    """
    given = json.loads(json.dumps(settings))  # as JSON has it: tuples are lists there
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            was, result = found["settings"], dict(found["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not a result of a study: {error!r}") from None
        if was != given:
            raise ValueError(
                f"{path}: was made with other settings or data; go on with the same ones, or start "
                "afresh in another folder"
            )
        return result
    print(path.stem, file=sys.stderr, flush=True)
    # Of a fixed name: what a run that was killed has left there goes too.
    folder = path.with_name(f".{path.stem}")
    rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = asdict(made(folder))
    finally:
        rmtree(folder)
    _write(path, json.dumps({"settings": given, "result": result}, allow_nan=False) + "\n")
    return result


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.partial")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def recipe_of(system: System, base: Recipe, seed: int) -> Recipe:
    recipe: Recipe = with_values(replace(base, seed=seed), dict(system.values))
    return recipe


def _scaled(base: Recipe, train: Sequence[LabelledSet], dev: Sequence[DevSet]) -> dict[float, Gradients]:
    """How the gradient of an untrained plain RNN depends on its recurrent weights."""
    found = {}
    for radius in RADII:
        shape = {"cell": "rnn", "n_layers": 1, "bidirectional": False}
        config, lexicon, network = _fresh(with_values(base, {"network": shape}), train)
        scale_recurrence(network, radius)
        store = TypeStore(lexicon.vocabulary.encoder)
        batch = windows([s for part in dev for s in part.sentences], config.scheme, store)
        if curve := gradients_by_distance(network, batch):
            found[radius] = curve
    return found


def run(
    recipe: Recipe,
    out: Path,
    *,
    n_seeds: int = 1,
    systems: Sequence[str] = (),
    probe: ProbeConfig | None = None,
    n_probe_seeds: int = 1,
    device: str = "cpu",
    command: str = "",
) -> Path:
    """Trains what has no result in ``out`` yet; the report's path. Raises ValueError for bad input.

    ``systems``: names of those to train, all if none is given; the base is always there. ``probe``:
    how its networks are trained, None for the default. Seeds count up from the recipe's.
    """
    from training.study_report import report

    wanted = chosen(systems)
    train, dev, hashes = _read(recipe)
    for path in filter(None, (recipe.vectors.cased, recipe.vectors.lower)):
        hashes[path] = _sha256(Path(path))
    runs: list[SystemRun] = []
    probed: list[ProbeRun] = []
    probe = probe or ProbeConfig()
    for seed in range(recipe.seed, recipe.seed + n_seeds):
        for system in wanted:
            own = recipe_of(system, recipe, seed)
            value = _kept(
                out / "results" / f"{system.slug}-{seed}.json",
                {"recipe": own.as_json(), "sha256": hashes},
                partial(run_system, system, own, train, dev, device=device),
            )
            runs.append(SystemRun.from_json(value))
    for seed in range(recipe.seed, recipe.seed + n_probe_seeds):
        for cell, both in PROBED:
            value = _kept(
                out / "probe" / f"{cell}-{'two-directions' if both else 'one-direction'}-{seed}.json",
                asdict(probe),
                partial(run_probe, cell, both, seed, probe),
            )
            probed.append(ProbeRun.from_json(value))
    study = Study(
        command=command,
        train={part.name: len(part.sentences) for part in train},
        dev={part.name: len(part.sentences) for part in dev},
        n_train_tokens=sum(len(s.tokens) for part in train for s in part.sentences),
        recipe=recipe,
        probe=probe,
        runs=runs,
        probes=probed,
        scaled=_scaled(recipe, train, dev),
        machine=f"torch {torch.__version__}, {device}; threads: {torch.get_num_threads()}",
    )
    _write(out / "results.json", json.dumps(asdict(study), allow_nan=False) + "\n")
    _write(out / "report.html", report(study))
    return out / "report.html"
