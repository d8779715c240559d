"""One chunk of records in, the bytes of its output out: what each process of the engine does.

records → tokens, sentences (model) → labels, persons (model) → lines (service/cli/formats.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.artefact import ArtefactError
from model.tagger import Tagger
from service.cli.errors import CliError, InputError
from service.cli.formats import FORMATS, redacted_lines
from service.cli.records import Chunk, Done, Options, Record, Sentence
from service.redaction.texts import Redaction, persons_of


@dataclass(frozen=True, slots=True)
class Worker:
    tagger: Tagger
    options: Options


def setup(options: Options) -> Worker:
    """Raises CliError."""
    try:
        # One thread: the other cores have processes of their own.
        return Worker(Tagger.load(options.model, device=options.device, threads=1), options)
    except (ArtefactError, ValueError, OSError) as error:
        raise CliError(str(error)) from None


def work(worker: Worker, chunk: Chunk) -> Done:
    errors = [str(record) for record in chunk.records if isinstance(record, InputError)]
    records = [record for record in chunk.records if isinstance(record, Record)]
    do = _redact if worker.options.mode else _tag
    output, n_tokens, n_persons = do(worker, chunk, records)
    return Done(chunk.index, chunk.position, output, n_tokens, n_persons, len(records), errors)


def _tag(worker: Worker, chunk: Chunk, records: list[Record]) -> tuple[bytes, int, int]:
    options = worker.options
    tagged = sentences_of([record.text for record in records], worker.tagger, options.threshold)
    write = FORMATS[options.format]
    lines = b"".join(
        write(record, sentences, chunk, options) for record, sentences in zip(records, tagged, strict=True)
    )
    n_tokens = sum(len(s.tokens) for sentences in tagged for s in sentences)
    n_persons = sum(len(s.tagged.spans) for sentences in tagged for s in sentences)
    return lines, n_tokens, n_persons


def _redact(worker: Worker, chunk: Chunk, records: list[Record]) -> tuple[bytes, int, int]:
    """Each record by itself: the same person has the same number in one record."""
    options = worker.options
    redactions = [Redaction([record.text], options.mode, options.key) for record in records]
    waiting = redactions
    n_tokens = 0
    while waiting:
        # All of a round together: batches of sentences of like length.
        asked = [(redaction, text) for redaction in waiting for text in redaction.to_tag()]
        tagged = sentences_of([text for _, text in asked], worker.tagger, options.threshold)
        for (redaction, text), sentences in zip(asked, tagged, strict=True):
            redaction.learn([[p for s in sentences for p in persons_of(text, s.tokens, s.tagged)]])
            n_tokens += sum(len(s.tokens) for s in sentences)
        waiting = [redaction for redaction, _ in asked]
    results = [redaction.results()[0] for redaction in redactions]
    lines = b"".join(
        redacted_lines(record, result, chunk, options)
        for record, result in zip(records, results, strict=True)
    )
    return lines, n_tokens, sum(len(result.replacements) for result in results)


def sentences_of(texts: Sequence[str], tagger: Tagger, threshold: float | None) -> list[list[Sentence]]:
    """The sentences found in each text, tagged."""
    return [[Sentence(*each) for each in found] for found in tagger.tag_texts(texts, threshold)]
