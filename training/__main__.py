"""python -m training: train a tagger, make word vectors, score a model.

Progress goes to stderr, results to stdout. Exit codes: 0 done, 1 it broke down on the way,
2 bad arguments or bad input, 130 interrupted (train --resume goes on).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# With --init: the usual rate learns a little corpus no better and forgets twice as much of what
# the model knew (training/LABBOOK.md, 3).
FINE_TUNING_RATE = 5e-4


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    train = command("train", _train, "Train a tagger on labelled files and save it as a model folder.")
    train.add_argument(
        "files", nargs="*", type=Path, metavar="FILE",
        help='CoNLL columns, or JSON lines of {"text", "spans": [{"start", "end", "label"}]}; .gz, .xz too',
    )  # fmt: skip
    train.add_argument("--out", type=Path, required=True, help="the model folder to write")
    # Under torchrun by its long name: the short one torchrun takes for its own --run-path.
    train.add_argument(
        "--run", "--run-folder", type=Path, dest="run_folder", help="checkpoints; default: runs/NAME-OF-OUT"
    )
    train.add_argument(
        "--dev", nargs="+", type=Path, metavar="FILE", help="dev files; else a split by document"
    )
    train.add_argument("--dev-share", type=float, help="of the documents, without --dev (0.1)")
    train.add_argument(
        "--recipe", type=Path, help="a TOML file of settings; the options below go before it"
    )
    train.add_argument("--init", type=Path, metavar="MODEL", help="fine-tune this model folder")
    train.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run of these settings and files"
    )
    train.add_argument(
        "--compile", action="store_true", help="compile the context encoder (torch.compile): for long runs"
    )
    train.add_argument(
        "--stream", action="store_true", help="keep training sentences on disk: of files larger than memory"
    )
    train.add_argument(
        "--types", nargs="+", metavar="TYPE", help="entity types to learn; else all of the data"
    )
    train.add_argument(
        "--scheme", choices=("auto", "iob1", "iob2", "bioes", "bilou"), help="of the labels (auto)"
    )
    train.add_argument(
        "--vectors", type=Path, help="word vectors of forms as written (word2vec, GloVe, fastText)"
    )
    train.add_argument("--lower-vectors", type=Path, help="word vectors of lower-cased words, as GloVe's")
    train.add_argument("--cell", choices=("lstm", "gru", "rnn", "lstm-peephole"))
    train.add_argument("--layers", type=_positive)
    train.add_argument("--hidden", type=_positive, help="width of one direction")
    train.add_argument("--one-direction", action="store_true", help="left to right only")
    train.add_argument("--head", choices=("crf", "softmax"))
    train.add_argument("--epochs", type=_positive)
    train.add_argument("--learning-rate", type=float, help="at its peak (0.0025; with --init 0.0005)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                       help="any other setting of a recipe: dropout.words=0.2")  # fmt: skip
    _common(train)
    train.set_defaults(seed=None)  # the recipe's, which is 1 where it says none

    vectors = command("embeddings", _embeddings, "Train word vectors on raw text with gensim.")
    vectors.add_argument(
        "files", nargs="+", type=Path, metavar="PATH", help=".txt, .txt.gz, .txt.xz or a folder"
    )
    vectors.add_argument(
        "--out", type=Path, required=True, help=".bin: word2vec's binary form; else its text form"
    )
    vectors.add_argument("--method", choices=("word2vec", "fasttext"), default="word2vec")
    vectors.add_argument("--dimension", type=_positive, default=100)
    vectors.add_argument("--window", type=_positive, default=5, help="words to either side (5)")
    vectors.add_argument("--min-count", type=_positive, default=10, help="rarer words get no vector (10)")
    vectors.add_argument("--epochs", type=_positive, default=3)
    _common(vectors)

    _language_model_parser(
        command("language-model", _language_model, "Train and ask language models of words or characters.")
    )

    write = command(
        "synthesise", _synthesise, "Write labelled sentences from templates and lists of names."
    )
    write.add_argument("--names", type=Path, required=True, help="folder of name lists (training/names.py)")
    write.add_argument("--out", type=Path, required=True, help="a .jsonl file, for a recipe's [[data]]")
    write.add_argument("--sentences", type=_positive, default=20_000)
    write.add_argument("--raw", nargs="+", type=Path, default=[], metavar="TEXT",
                       help="not from templates: from these texts, names for pronouns")  # fmt: skip
    _common(write)

    origins = command(
        "name-origins", _name_origins, "Learn to guess the origin of names, for invented ones like them."
    )
    origins.add_argument("--names", type=Path, required=True, help="folder of name lists by country")
    origins.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    _common(origins)

    label = command("label", _label, "Label raw text by a model, as soft labels for another to learn from.")
    label.add_argument("model", type=Path, metavar="MODEL", help="the teacher, a model folder")
    label.add_argument(
        "files", nargs="+", type=Path, metavar="PATH", help=".txt, .txt.gz, .txt.xz or a folder"
    )
    label.add_argument(
        "--out", type=Path, required=True, help="a .safetensors file, for a recipe's [[data]]"
    )
    label.add_argument("--share", type=float, default=1.0, help="of the documents, drawn at random (1)")
    label.add_argument(
        "--max-tokens", type=_positive, default=1_000_000, help="labelled of each file (1000000)"
    )
    label.add_argument("--without-names", type=float, default=0.3,
                       help="share kept of the sentences in which nobody is found (0.3)")  # fmt: skip
    label.add_argument("--and", type=Path, action="append", default=[], metavar="MODEL", dest="others",
                       help="another teacher: what is kept is the mean of their posteriors")  # fmt: skip
    label.add_argument("--temperature", type=float, help="of MODEL's probabilities (its own)")
    label.add_argument(
        "--scout",
        type=Path,
        metavar="MODEL",
        help="a quick model; little is labelled that it is sure of",
    )
    label.add_argument("--sure", type=float, default=0.1, help="the share of those that are (0.1)")
    _common(label)

    evaluate = command(
        "evaluate", _evaluate, "Score a model folder on labelled files, as the service would answer."
    )
    evaluate.add_argument("model", type=Path, metavar="MODEL")
    evaluate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    evaluate.add_argument(
        "--threshold", type=float, help="spans that score lower become O; default: the model's"
    )
    evaluate.add_argument("--train-files", nargs="+", type=Path, default=[], metavar="FILE",
                          help="to score seen and unseen names apart")  # fmt: skip
    evaluate.add_argument("--documents", action="store_true",
                          help="sentences tell the others of their document of names")  # fmt: skip
    evaluate.add_argument("--json", type=Path, help="write all figures here")
    evaluate.add_argument("--report", type=Path, help="write a self-contained HTML report here")
    evaluate.add_argument("--scheme", choices=("auto", "iob1", "iob2", "bioes", "bilou"), default="auto")
    _common(evaluate)

    behaviour = command(
        "behaviour", _behaviour, "Run the suite of minimal pairs on a model: pass rates by phenomenon."
    )
    behaviour.add_argument("model", type=Path, metavar="MODEL")
    behaviour.add_argument(
        "cases", nargs="?", type=Path, metavar="FOLDER", default=Path("tests/behaviour"),
        help="of marked sentences, one file a phenomenon (tests/behaviour)",
    )  # fmt: skip
    behaviour.add_argument("--json", type=Path, help="write all figures here")
    behaviour.add_argument(
        "--floors", type=Path, metavar="FILE", help="write least pass rates for the test here"
    )
    behaviour.add_argument("--failures", action="store_true", help="list the cases that failed")
    _common(behaviour)

    probe = command(
        "probe", _probe, "Put hundreds of names into sentences: the frames and origins that are missed."
    )
    probe.add_argument("model", type=Path, metavar="MODEL")
    probe.add_argument("--names", type=Path, required=True, help="folder of name lists (training/names.py)")
    probe.add_argument("--frames", type=Path, default=Path("tests/probe.txt"),
                       help="sentences with {} for a name, a line each (tests/probe.txt)")  # fmt: skip
    probe.add_argument("-n", type=_positive, default=150, help="people in each (150)")
    probe.add_argument("--worst", type=_positive, default=20, help="frames and origins listed (20)")
    probe.add_argument("--json", type=Path, help="write all shares here")
    _common(probe)

    study = command(
        "study", _study, "Train the systems of the tutorials on the same data and compare them in a report."
    )
    study.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="as for train; default: the bundled corpus"
    )
    study.add_argument(
        "--out", type=Path, required=True, help="the folder; what is in it is not done again"
    )
    study.add_argument(
        "--dev", nargs="+", type=Path, metavar="FILE", help="dev files; else a split by document"
    )
    study.add_argument("--seeds", type=_positive, default=1, help="trainings of each system (1)")
    study.add_argument("--epochs", type=_positive, help="of each training (20)")
    study.add_argument("--types", nargs="+", metavar="TYPE", help="entity types to learn (PER)")
    study.add_argument("--vectors", type=Path, help="word vectors of forms as written; else learnt")
    study.add_argument("--systems", nargs="+", default=[], metavar="NAME", help="those alone; else all")
    study.add_argument(
        "--probe-seeds", type=int, default=1, metavar="N",
        help="trainings for the recall by distance of the deciding word (1; 0 leaves it out)",
    )  # fmt: skip
    study.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                       help="any other setting of a recipe, for all systems")  # fmt: skip
    _common(study)

    card = command("card", _card, "Write scores and notes into a model's card.")
    card.add_argument("model", type=Path, metavar="MODEL")
    card.add_argument("--scores", type=Path, required=True, help="what evaluate --json wrote")
    card.add_argument("--notes", type=Path, required=True, help="Markdown: data, licences, limits")
    card.add_argument("--behaviour", type=Path, metavar="FILE", help="what behaviour --json wrote")
    return parser


def _language_model_parser(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    train = verbs.add_parser("train", help="train a model on raw text; documents have blank lines between")
    train.add_argument(
        "files", nargs="+", type=Path, metavar="PATH", help=".txt, .txt.gz, .txt.xz, a folder"
    )
    train.add_argument("--out", type=Path, required=True, help="the folder to write")
    train.add_argument("--level", choices=("word", "char"), default="word", help="what is predicted (word)")
    train.add_argument("--direction", choices=("forward", "backward"), default="forward")
    train.add_argument("--max-tokens", type=_positive, help="words read of the files (2000000)")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                       help="of training.language_model.LanguageModelConfig: hidden_dim=512")  # fmt: skip
    ask = {
        "perplexity": "of raw text: how many units the model hesitates between, on average",
        "score": "log2-probability and perplexity of each sentence, the likeliest first",
        "complete": "sentences that go on from a beginning (a backward model's: up to an end)",
        "sample": "new sentences, until <EOS>, without <UNK>",
    }
    for verb, text in ask.items():
        one = verbs.add_parser(verb, help=text, description=text)
        one.add_argument("model", type=Path, metavar="MODEL")
        if verb == "perplexity":
            one.add_argument("files", nargs="+", type=Path, metavar="PATH")
            one.add_argument("--max-tokens", type=_positive, default=100_000, help="words read (100000)")
        if verb == "score":
            one.add_argument("texts", nargs="+", metavar="SENTENCE")
            one.add_argument("--units", action="store_true", help="each word's, or character's, too")
        if verb == "complete":
            one.add_argument("text", metavar="TEXT")
        if verb in ("complete", "sample"):
            one.add_argument("-n", type=_positive, default=5, help="how many (5)")
            one.add_argument("--temperature", type=float, default=0.8, help="lower: likelier words (0.8)")
        _common(one)
    _common(train)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--threads", type=_positive, default=1, help="CPU threads (1: reproducible, and seldom slower)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def _device(asked: str) -> str:
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, and torch finds no CUDA device")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def _nested(settings: Sequence[str]) -> dict[str, Any]:
    """["a.b=1"] → {"a": {"b": 1}}. Raises ValueError for what is not KEY=VALUE."""
    out: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text  # a bare word is a string
        if not equals or not key:
            raise ValueError(f"--set {setting}: KEY=VALUE is expected")
        *parents, last = key.split(".")
        table = out
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ValueError(f"--set {setting}: {parent} was given a value of its own")
        table[last] = value
    return out


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from training.fit import NonFiniteLossError
    from training.ranks import LostRankError, joined
    from training.recipe import DataConfig, Recipe, read_recipe, with_values
    from training.train import train

    a = arguments
    torch.set_num_threads(a.threads)
    recipe = read_recipe(a.recipe) if a.recipe else Recipe(name=a.out.name)
    rate = a.learning_rate
    if rate is None and a.init and not a.recipe:
        rate = FINE_TUNING_RATE
    of_model = _given(a, "cell", "layers", "hidden", "head", "one_direction", "vectors", "lower_vectors")
    if a.init and of_model:
        raise ValueError(f"{of_model[0]} with --init: shape and words are those of {a.init}")
    network = {"cell": a.cell, "n_layers": a.layers, "hidden_dim": a.hidden, "head": a.head}
    if a.one_direction:
        network["bidirectional"] = False
    given: dict[str, Any] = {
        "scheme": a.scheme,
        "dev_share": a.dev_share,
        "entity_types": a.types,
        "dev": [str(path) for path in a.dev] if a.dev else None,
        "seed": a.seed,
        "network": network,
        "optimiser": {"epochs": a.epochs, "learning_rate": rate},
        "vectors": {
            "cased": str(a.vectors) if a.vectors else None,
            "lower": str(a.lower_vectors) if a.lower_vectors else None,
        },
    }
    recipe = with_values(with_values(recipe, _without_none(given)), _nested(a.settings))
    if a.files:
        recipe = replace(recipe, data=tuple(DataConfig(str(path)) for path in a.files))
    if a.stream:
        recipe = replace(recipe, data=tuple(replace(part, stream=True) for part in recipe.data))
    if not recipe.data:
        raise ValueError("no training file: name one, or a recipe with [[data]]")
    began = time.monotonic()
    # A run that was resumed made what the command without --resume makes.
    command = "python -m training " + shlex.join(word for word in sys.argv[1:] if word != "--resume")
    run_folder = a.run_folder or Path("runs") / a.out.name
    device = _device(a.device)
    try:
        with joined(os.environ, device) as ranks:
            made = train(
                recipe,
                a.out,
                run_folder,
                init=a.init,
                resume=a.resume or ranks.is_restart,
                device=device,
                compiled=a.compile,
                command=command,
                ranks=ranks,
            )
    except (NonFiniteLossError, LostRankError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if made is None:
        return 0
    seconds = time.monotonic() - began
    print(f"{made.artefact}: dev F1 {made.dev_f1:.4f} (epoch {made.best_epoch}), {seconds:.1f} s; "
          f"serve it with NAMETAG_MODEL={made.artefact} make serve")  # fmt: skip
    return 0


def _given(arguments: argparse.Namespace, *names: str) -> list[str]:
    """The options of these that were given."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    kept = {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
    return {k: v for k, v in kept.items() if v != {}}


def _embeddings(arguments: argparse.Namespace) -> int:
    from training.embeddings import train_vectors, write_vectors
    from training.raw_text import text_files

    a = arguments
    began = time.monotonic()
    vectors = train_vectors(
        text_files(a.files),
        method=a.method,
        dimension=a.dimension,
        window=a.window,
        min_count=a.min_count,
        epochs=a.epochs,
        threads=a.threads,
        seed=a.seed,
    )
    write_vectors(vectors, a.out)
    n_words, dimension = vectors.rows.shape
    print(f"{a.out}: {n_words:,} words, {dimension} dimensions, {time.monotonic() - began:.1f} s")
    return 0


def _language_model(arguments: argparse.Namespace) -> int:
    import torch

    from training import language_model as lm
    from training import language_model_fit as lm_fit
    from training.fit import NonFiniteLossError
    from training.raw_text import text_files
    from training.recipe import with_values

    a = arguments
    torch.set_num_threads(a.threads)
    device = _device(a.device)
    if a.verb == "train":
        given = {"level": a.level, "direction": a.direction, "seed": a.seed, "max_tokens": a.max_tokens}
        config = with_values(lm.LanguageModelConfig(), _without_none(given) | _nested(a.settings))
        split = lm_fit.read_split(text_files(a.files), config.max_tokens, config.held_out)
        try:
            fitted = lm_fit.fit(config, split, device)
        except NonFiniteLossError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        lm.save_model(fitted.model, a.out)
        print(f"{a.out}: {len(fitted.model.units):,} {config.level}s known, {fitted.n_train_units:,} "
              f"trained on, {fitted.seconds:.0f} s; held out: {fitted.held_out}")  # fmt: skip
        return 0
    model = lm.load_model(a.model).to(device)
    if a.verb == "perplexity":
        print(lm_fit.perplexity(model, lm_fit.read_sentences(text_files(a.files), a.max_tokens)))
    elif a.verb == "score":
        scored = [(model.score(text), text) for text in a.texts]
        for units, text in sorted(scored, key=lambda one: -sum(log for _, log in one[0])):
            log2 = sum(log for _, log in units)
            unknown = " ".join(unit for unit, _ in units if unit not in model.ids)
            print(
                f"{log2:.2f}\t{2 ** (-log2 / len(units)):.2f}\t{text}"
                + (f"\t<UNK>: {unknown}" if unknown else "")
            )
            if a.units:
                print("\n".join(f"    {log:.2f}\t{unit}" for unit, log in units))
    else:
        rng = torch.Generator().manual_seed(a.seed)
        for _ in range(a.n):
            print(model.generate(rng, a.text if a.verb == "complete" else "", a.temperature))
    return 0


def _synthesise(arguments: argparse.Namespace) -> int:
    from training.names import read_names
    from training.synthesis import write_corpus

    a = arguments
    print(f"{a.out}: {write_corpus(read_names(a.names), a.out, a.sentences, a.seed, a.raw):,} sentences")
    return 0


def _name_origins(arguments: argparse.Namespace) -> int:
    import torch

    from training.name_origins import make

    a = arguments
    torch.set_num_threads(a.threads)
    for name, figure in make(a.names, a.out, seed=a.seed).items():
        print(f"{name}: {figure}")
    return 0


def _label(arguments: argparse.Namespace) -> int:
    import torch

    from model.tagger import Tagger
    from training.distil import SUFFIX, Chosen, Teacher, Teachers, label_files, write_soft
    from training.raw_text import text_files

    a = arguments
    if a.out.suffix != SUFFIX:
        raise ValueError(f"--out {a.out}: a name that ends in {SUFFIX} is expected")
    if a.temperature is not None and not a.temperature > 0:
        raise ValueError(f"--temperature is {a.temperature:g}: more than 0 is expected")
    torch.set_num_threads(a.threads)
    began = time.monotonic()
    device = _device(a.device)
    others = [Teacher(model, device) for model in a.others]
    teacher = Teachers([Teacher(a.model, device, a.temperature), *others])
    chosen = Chosen(a.share, a.max_tokens, a.without_names, a.seed, a.sure)
    scout = None if a.scout is None else Tagger.load(a.scout)
    sentences = label_files(teacher, text_files(a.files), chosen, scout)
    n = write_soft(sentences, a.out, teacher.config.scheme.labels, teacher.name)
    print(f"{a.out}: {n:,} sentences, {time.monotonic() - began:.1f} s")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from training.evaluate import run

    a = arguments
    run(
        model=a.model,
        files=a.files,
        threshold=a.threshold,
        train_files=a.train_files,
        json_path=a.json,
        report_path=a.report,
        scheme=a.scheme,
        documents=a.documents,
        device=a.device,
        threads=a.threads,
    )
    return 0


def _behaviour(arguments: argparse.Namespace) -> int:
    from training.behaviour import run

    a = arguments
    run(
        model=a.model,
        cases=a.cases,
        json_path=a.json,
        floors_path=a.floors,
        failures=a.failures,
        device=a.device,
        threads=a.threads,
    )
    return 0


def _probe(arguments: argparse.Namespace) -> int:
    from training.probe import run

    a = arguments
    run(model=a.model, frames=a.frames, names=a.names, n=a.n, most=a.worst, seed=a.seed, device=a.device,
        threads=a.threads, json_path=a.json)  # fmt: skip
    return 0


def _study(arguments: argparse.Namespace) -> int:
    import torch

    from training.recipe import DataConfig, with_values
    from training.study import bundled, run
    from training.systems import RECIPE

    a = arguments
    torch.set_num_threads(a.threads)
    if a.dev and not a.files:
        raise ValueError("--dev without training files: name both, or neither for the bundled corpus")
    given: dict[str, Any] = {
        "dev": [str(path) for path in a.dev] if a.dev else None,
        "entity_types": a.types,
        "seed": a.seed,
        "optimiser": {"epochs": a.epochs},
        "vectors": {"cased": str(a.vectors) if a.vectors else None},
    }
    recipe = with_values(with_values(RECIPE, _without_none(given)), _nested(a.settings))
    data = tuple(DataConfig(str(path)) for path in a.files)
    recipe = replace(recipe, data=data) if data else bundled(recipe)
    report = run(
        recipe,
        a.out,
        n_seeds=a.seeds,
        systems=a.systems,
        n_probe_seeds=a.probe_seeds,
        device=_device(a.device),
        command="python -m training " + shlex.join(sys.argv[1:]),
    )
    print(report)
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from training.card import write_card

    a = arguments
    print(write_card(a.model, scores=a.scores, notes=a.notes, behaviour=a.behaviour))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except ValueError as error:  # ours: each says the place, the value and what was expected
        if os.environ.get("NAMETAG_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; train --resume goes on from the last checkpoint, study from its results",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
