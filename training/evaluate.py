"""A model folder and labelled files in; scores, a table and a report out.

The model is read from disk and run by the Tagger that the service runs, on the tokens that the
files give (JSON lines are cut as the service cuts, and at the edges of a span that ends inside a
token, which the service would not see). What is scored is what would be served.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from model.artefact import ArtefactError
from model.tagger import SelfTestError, Tagger
from training.corpus import Sentence, read_corpus
from training.metrics import names_of
from training.scores import Evaluation, evaluate, table


def run(
    *,
    model: Path,
    files: Sequence[Path],
    threshold: float | None = None,
    train_files: Sequence[Path] = (),
    json_path: Path | None = None,
    report_path: Path | None = None,
    scheme: str = "auto",
    documents: bool = False,
    device: str = "auto",
    threads: int = 1,
) -> Evaluation:
    """Evaluates the model folder on the files: the table to stdout, progress to stderr, files if asked.

    Entities of types that the model does not know are read as O. Raises ValueError (CorpusError,
    ArtefactError) for input that cannot be used; then nothing is written.
    """
    tagger = Tagger.load(model, device=device, threads=threads)
    try:
        tagger.self_test()
    except SelfTestError as error:
        raise ArtefactError(f"{model}: {error}") from None

    def read(path: Path) -> list[Sentence]:
        types = tagger.config.entity_types
        found = read_corpus(path, scheme=scheme, entity_types=types, tokenise=tagger.tokenise)
        n_names = sum(label[0] == "B" for sentence in found for label in sentence.labels)
        print(f"{path}: {len(found):,} sentences, {n_names:,} of {'/'.join(types)}", file=sys.stderr)
        return found

    corpora = dict(zip(set_names(files), map(read, files), strict=True))
    train_names = None
    if train_files:
        train_names = names_of((s.tokens, s.labels) for path in train_files for s in read(path))
    evaluation = evaluate(
        tagger, corpora, threshold=threshold, train_names=train_names, documents=documents
    )
    if json_path:
        _write(json_path, json.dumps(evaluation.as_json(), ensure_ascii=False, indent=1) + "\n")
    if report_path:
        from training.report import report  # and Matplotlib, only where it is asked for

        _write(report_path, report(evaluation, tagger.artefact.training))
    print(table(evaluation))
    return evaluation


def set_names(files: Sequence[Path]) -> list[str]:
    """What to call each file: as much of its path's end as tells it from the others."""
    for n_parts in range(1, 1 + max((len(path.parts) for path in files), default=0)):
        names = [
            "/".join([*path.parts[-n_parts:-1], path.name.split(".")[0] or path.name]) for path in files
        ]
        if len(set(names)) == len(files):
            return names
    names = [str(path) for path in files]
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"{repeated[0]}: is named more than once")
    return names


def _write(path: Path, text: str) -> None:
    """In one step, so that no reader sees half of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.partial")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    print(f"{path}: written", file=sys.stderr)
