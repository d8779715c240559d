"""A recipe in, a bundled artefact out: reads the data, fits, exports, and scores what it saved."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from model.artefact import MANIFEST, Artefact, save
from model.artefact import load as load_artefact
from model.backend import network_of
from model.config import NetworkConfig, TaggerConfig
from model.features import Vocabulary
from model.labels import spans_of
from model.network import BiRnnTagger, network_for
from model.tagger import Tagger
from model.tokeniser import tokeniser
from training.batches import LabelledSet, TypeStore
from training.corpus import Sentence, iter_corpus, split_by_document
from training.distil import SUFFIX as SOFT_SUFFIX
from training.distil import read_soft
from training.embeddings import Vectors, read_vectors
from training.export import make_artefact
from training.fit import (
    CHECKPOINT,
    DevSet,
    Fit,
    compile_encoder,
    decode_all,
    emit,
    network_chain,
    new_network,
)
from training.metrics import span_scores
from training.names import read_names
from training.pretrained import read_pretrained
from training.ranks import ALONE, Ranks
from training.recipe import Recipe
from training.stored import StoredSentences
from training.vocabulary import Lexicon, build_lexicon

# Sentences of streamed data in memory at a time: enough that those of like length fill batches.
_WINDOW = 32_768
# tau, for the temperature fit: from sharpened to flattened.
_TEMPERATURES = tuple(float(t) for t in np.round(np.geomspace(0.5, 4.0, 49), 3))


@dataclass(frozen=True)
class Trained:
    """What a run has made."""

    artefact: Path
    dev_f1: float  # of the artefact as reloaded from disk
    best_epoch: int


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _expect_writable(out: Path) -> None:
    """Raises OSError where the model folder could not be written after hours of training."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file, the model's folder is expected", str(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.parent):
        pass


def _digest(*parts: Any) -> bytes:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


def _read(
    recipe: Recipe, ranks: Ranks = ALONE, folder: Path | None = None
) -> tuple[list[LabelledSet], list[DevSet], dict[str, str]]:
    """The training sets, the dev sets, and the files' hashes. What is streamed is kept in ``folder``."""
    tokenise = tokeniser(TaggerConfig("").tokeniser)
    types = recipe.entity_types or None
    hashes: dict[str, str] = {}
    taught: dict[str, tuple[str, ...]] = {}

    def sentences(path: str, stream: bool = False) -> Sequence[Sentence]:
        found: Sequence[Sentence]
        if path.endswith(SOFT_SUFFIX):
            if stream:
                raise ValueError(f"{path}: soft labels are not streamed, only labelled text is")
            found, taught[path] = read_soft(Path(path))
        else:
            read = iter_corpus(Path(path), scheme=recipe.scheme, entity_types=types, tokenise=tokenise)
            found = StoredSentences(read, folder) if stream else list(read)
        hashes[path] = _sha256(Path(path))
        ranks.say(f"{path}: {len(found):,} sentences")
        return found

    if any(part.stream for part in recipe.data) and not recipe.dev:
        raise ValueError("data that is streamed cannot be split: give a dev file")
    train = [
        LabelledSet(part.path, sentences(part.path, part.stream), part.weight, taught.get(part.path, ()))
        for part in recipe.data
    ]
    if recipe.temperature < 0:
        raise ValueError(f"temperature is {recipe.temperature:g}: 0 or more is expected")
    if unknown := sorted({*recipe.calibrate} - {*recipe.dev}):
        raise ValueError(f"calibrate: {unknown[0]} is not one of the dev files {list(recipe.dev)}")
    if recipe.dev:
        return train, [DevSet(path, list(sentences(path))) for path in recipe.dev], hashes
    split = [split_by_document(part.sentences, recipe.dev_share, recipe.seed) for part in train]
    dev = [s for _, kept in split for s in kept]
    train = [replace(part, sentences=rest) for part, (rest, _) in zip(train, split, strict=True)]
    if not dev:
        raise ValueError("too few documents to keep any for dev: give a dev file")
    return train, [DevSet(f"{recipe.dev_share:g} of the training documents", dev)], hashes


def _entity_types(recipe: Recipe, train: Sequence[LabelledSet]) -> tuple[str, ...]:
    found = {label[2:] for part in train for s in part.sentences for label in s.labels if label != "O"}
    if not found:
        raise ValueError("the training data holds no entity: every label is O")
    if missing := sorted({*recipe.entity_types} - found):
        raise ValueError(
            f"type {missing[0]!r} is asked for, and no training file has it; of those asked for they have "
            f"{', '.join(sorted(found))}"
        )
    return recipe.entity_types or tuple(sorted(found))


def _vectors(path: str, most: int) -> Vectors | None:
    # More than are kept, since some words share the form that they are looked up by.
    return read_vectors(Path(path), 2 * most) if path else None


def _fresh(recipe: Recipe, train: Sequence[LabelledSet]) -> tuple[TaggerConfig, Lexicon, BiRnnTagger]:
    vectors = recipe.vectors
    cased, lower = _vectors(vectors.cased, vectors.max_cased), _vectors(vectors.lower, vectors.max_lower)
    context = read_pretrained(Path(vectors.context)) if vectors.context else None
    network_config = replace(
        recipe.network,
        **(context.shape if context else {}),
        cased_dim=cased.rows.shape[1] if cased else recipe.network.cased_dim,
        lower_dim=lower.rows.shape[1] if lower else recipe.network.lower_dim,
    )
    config = TaggerConfig(
        name=recipe.name,
        version=recipe.version,
        languages=recipe.languages,
        entity_types=_entity_types(recipe, train),
        network=network_config,
    )
    lexicon = build_lexicon(
        (s for part in train for s in part.sentences),
        cased=cased,
        lower=lower,
        context=context,
        max_cased=vectors.max_cased,
        max_lower=vectors.max_lower,
        min_count=recipe.min_count,
    )
    torch.manual_seed(recipe.seed)
    return config, lexicon, new_network(config, lexicon, vectors.tune)


def _from_artefact(
    recipe: Recipe, artefact: Artefact, train: Sequence[LabelledSet], ranks: Ranks
) -> tuple[TaggerConfig, Vocabulary, BiRnnTagger]:
    """Goes on from an existing model: its words, its shape and its weights. Types that it does not know
    come after its own; what their labels are read by begins anew."""
    config = replace(
        artefact.config, name=recipe.name, version=recipe.version, network=recipe.network, temperature=1.0
    )
    network: BiRnnTagger = network_of(replace(artefact, config=config))
    known = config.entity_types
    if unknown := tuple(t for t in _entity_types(recipe, train) if t not in known):
        ranks.say(f"{artefact.config.name} knows {', '.join(known)}; {', '.join(unknown)} begins anew")
        config = replace(config, entity_types=known + unknown)
        torch.manual_seed(recipe.seed)
        network = _with_labels(network, config, artefact.vocabulary)
    for table in (network.words.cased, network.words.lower):
        if table is not None:
            table.weight.requires_grad_(recipe.vectors.tune)
    return config, artefact.vocabulary, network


def _begun_from(recipe: Recipe, artefact: Artefact) -> Recipe:
    """The recipe as it is carried out with --init: the shape and the words are the model's. Raises
    ValueError where it asks for another shape."""
    # Trained without the roundings that served weights have.
    shape = replace(artefact.config.network, int8_recurrence=False)
    usual = NetworkConfig()
    for part in fields(NetworkConfig):
        asked, has = getattr(recipe.network, part.name), getattr(shape, part.name)
        if asked not in (has, getattr(usual, part.name)):
            raise ValueError(
                f"network.{part.name} is {asked!r}; {artefact.config.name}, to begin with, has {has!r}"
            )
    vectors = replace(recipe.vectors, cased="", lower="", context="")
    return replace(recipe, network=shape, vectors=vectors)


def _known(part: DevSet, types: Sequence[str], ranks: Ranks) -> DevSet:
    """The set with O for labels of other types, as those have it that score a model of these."""
    if all(label == "O" or label[2:] in types for s in part.sentences for label in s.labels):
        return part
    ranks.say(f"{part.name}: of other types than {', '.join(types)} is O")
    return replace(
        part,
        sentences=[
            replace(s, labels=tuple(label if label[2:] in types else "O" for label in s.labels))
            for s in part.sentences
        ],
    )


def _with_labels(network: BiRnnTagger, config: TaggerConfig, vocabulary: Vocabulary) -> BiRnnTagger:
    """The network with more labels, those that it has first: the same emissions and chain for these."""
    wider = network_for(config, vocabulary)
    had = network.state_dict()
    weights = wider.state_dict()
    for name, weight in weights.items():
        # The others differ in no size but that of the labels.
        weight[tuple(slice(size) for size in had[name].shape)] = had[name]
    wider.load_state_dict(weights)
    return wider


def _fit_temperature(fit: Fit, store: TypeStore) -> float:
    """The temperature under which the dev spans' scores are most likely: the least log loss, as the
    mean over the sets to calibrate on, so that no large one decides for all. Few spans move it little
    away from 1, and none not at all."""
    chain = network_chain(fit.network, fit.config)
    parts = [
        (
            emit(fit.network, part.sentences, store, fit.device),
            [set(spans_of(s.labels)) for s in part.sentences],
        )
        for part in fit.dev
        if not fit.recipe.calibrate or part.name in fit.recipe.calibrate
    ]

    def log_loss(temperature: float) -> float:
        config = replace(fit.config, temperature=temperature)
        losses = []
        n_scored = 0
        for emitted, gold in parts:
            answers = decode_all(emitted, chain, config)
            scored = [(x.score, x.span in g) for a, g in zip(answers, gold, strict=True) for x in a.spans]
            p = np.clip(np.array([score for score, _ in scored]), 1e-6, 1 - 1e-6)
            right = np.array([is_right for _, is_right in scored], dtype=bool)
            losses.append(float(-np.where(right, np.log(p), np.log(1 - p)).mean()) if scored else 0.0)
            n_scored += len(scored)
        # As if its logarithm came from a normal distribution of deviation 1/2 around 0.
        return sum(losses) / len(losses) + 2 * math.log(temperature) ** 2 / max(1, n_scored)

    return min(_TEMPERATURES, key=lambda t: (log_loss(t), t))


def train(
    recipe: Recipe,
    out: Path,
    run_folder: Path,
    *,
    init: Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    compiled: bool = False,
    command: str = "",
    ranks: Ranks = ALONE,
) -> Trained | None:
    """Trains by the recipe and saves the artefact ``out``; ``compiled``: its context encoder by
    torch.compile. Raises ValueError for bad input, NonFiniteLossError where training broke down,
    LostRankError where another process was lost; none touches ``out``. Of several processes the first
    saves; the others give None."""
    if ranks.is_first and (run_folder / CHECKPOINT).exists() and not resume:
        raise ValueError(
            f"{run_folder}: holds a run already; pass --resume to go on with it, or another --run"
        )
    if ranks.is_first:
        _expect_writable(out)
    begun = load_artefact(init) if init else None
    recipe = _begun_from(recipe, begun) if begun else recipe
    is_streamed = any(part.stream for part in recipe.data)
    if is_streamed:
        run_folder.mkdir(parents=True, exist_ok=True)
    train_sets, dev, hashes = _read(recipe, ranks, run_folder)
    if begun:
        config, vocabulary, network = _from_artefact(recipe, begun, train_sets, ranks)
    else:
        config, lexicon, network = _fresh(recipe, train_sets)
        vocabulary = lexicon.vocabulary
        for path in filter(None, (recipe.vectors.cased, recipe.vectors.lower)):
            hashes[path] = _sha256(Path(path))
    if compiled:
        compile_encoder(network)
    dev = [_known(part, config.entity_types, ranks) for part in dev]
    names = read_names(Path(recipe.names)) if recipe.names and recipe.augment.swap_names else None
    if recipe.augment.swap_names and not names:
        raise ValueError("augment.swap_names is set, but names, the folder of name lists, is not")
    # Batches of other sentences, or other words behind the rows of a table, would add up to nonsense.
    words = (vocabulary.cased, vocabulary.lower, vocabulary.chars)
    listed = (names.given, names.family) if names else ()
    inputs = _digest(hashes, words, listed, _sha256(init / MANIFEST) if init else "").hex()
    ranks.agree(_digest(recipe.as_json(), inputs), "settings, data, vectors or names")
    fit = Fit(
        run_folder, recipe, config, network, vocabulary, train_sets, dev, names=names, device=device,
        ranks=ranks, window=_WINDOW if is_streamed else 0, inputs=inputs,
    )  # fmt: skip
    n_trained = sum(p.numel() for p in fit.trained.values())
    ranks.say(
        f"{n_trained:,} trained parameters, {len(vocabulary.cased):,} cased and "
        f"{len(vocabulary.lower):,} lower-cased words"
    )
    history = fit.run(resume=resume)
    if not ranks.is_first:
        return None
    fit.load_best()
    shape = replace(fit.config.network, int8_recurrence=fit.config.network.allows_int8)
    temperature = recipe.temperature or _fit_temperature(fit, fit.batches.store)
    config = replace(fit.config, network=shape, temperature=temperature)
    kept = history[-1]
    if recipe.optimiser.keep == "best":
        kept = max(history, key=lambda record: (record.dev_f1, record.epoch))
    training: dict[str, Any] = {
        "command": command,
        "recipe": recipe.as_json(),
        "data_sha256": hashes,
        "history": [asdict(record) for record in history],
        "sentences": {part.name: len(part.sentences) for part in train_sets},
        "best_epoch": kept.epoch,
        "processes": ranks.size,
        "torch": torch.__version__,
    }
    columns = {"cased": recipe.vectors.cased_columns, "lower": recipe.vectors.lower_columns}
    artefact = make_artefact(fit.network.cpu(), config, vocabulary, training=training, columns=columns)
    save(artefact, out)
    # Scored as it will be served: from disk, quantised, by the exported graphs.
    tagger = Tagger.load(out, device="cpu")
    tagger.self_test()
    f1 = 0.0
    for part in dev:
        answers = tagger.tag_all([s.tokens for s in part.sentences], 0.0)
        scores = span_scores([s.labels for s in part.sentences], [a.labels for a in answers])
        print(f"{part.name}: dev F1 {scores.f1:.4f} (P {scores.precision:.4f}, R {scores.recall:.4f})",
              file=sys.stderr)  # fmt: skip
        f1 += scores.f1 / len(dev)
    return Trained(out, f1, kept.epoch)
