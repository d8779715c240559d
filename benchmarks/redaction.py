"""Labelled sets in; what redaction leaves of their persons out: for each set, mode and threshold.

python benchmarks/redaction.py ../shared/data/ner/wikigold/test.iob.xz … [--threshold 0.05]

covered     names of which every letter was replaced, of those that are labelled, in per cent
left        persons that the model finds at 0.1 in a redacted text, outside of what was replaced
replaced    characters that were replaced though nobody is labelled there, in per cent of all others
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from model.labels import PERSON, spans_of  # noqa: E402
from model.tagger import Tagger  # noqa: E402
from service.redaction.texts import THRESHOLD, Person, Redacted, Redaction, left_over, persons_of  # noqa: E402
from training.corpus import read_corpus  # noqa: E402

FOUND_AT = 0.1
_KEY = b"of this benchmark"
_SENTENCES = 10  # of one text, a paragraph each, so that a sentence stays what it is


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/redaction.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--model", type=Path, default=ROOT / "artefacts" / "en-person")
    parser.add_argument("--threshold", type=float, nargs="+", default=[THRESHOLD])
    parser.add_argument("--mode", nargs="+", default=["mask", "label", "hash"])
    asked = parser.parse_args(arguments)
    tagger = Tagger.load(asked.model, device="cpu", threads=1)
    print("| set | mode | threshold | names | covered | left | replaced |\n|---|---|--:|--:|--:|--:|--:|")
    for path in asked.files:
        texts, gold = labelled_texts(path, tagger)
        for mode in asked.mode:
            for threshold in asked.threshold:
                results = redact(texts, mode, threshold, tagger)
                check_offsets(texts, results)
                row = (path.parent.name, mode, threshold, *figures(texts, gold, results, tagger))
                print("| " + " | ".join(str(each) for each in row) + " |", flush=True)
    return 0


def labelled_texts(path: Path, tagger: Tagger) -> tuple[list[str], list[list[Person]]]:
    """Texts of some sentences each, and the persons that are labelled in them."""
    sentences = read_corpus(path, entity_types=(PERSON,), tokenise=tagger.tokenise)
    texts, gold = [], []
    for first in range(0, len(sentences), _SENTENCES):
        text = ""
        persons = []
        for sentence in sentences[first : first + _SENTENCES]:
            starts = []
            for token in sentence.tokens:
                starts.append(len(text))
                text += token + " "
            for span in spans_of(sentence.labels):
                last = span.end - 1
                persons.append(Person(starts[span.start], starts[last] + len(sentence.tokens[last]), 1.0))
            text += "\n\n"
        texts.append(text)
        gold.append(persons)
    return texts, gold


def find(texts: Sequence[str], threshold: float, tagger: Tagger) -> list[list[Person]]:
    """The persons in each text, as a service with these settings finds them."""
    return [
        [person for tokens, tagged in found for person in persons_of(text, tokens, tagged)]
        for text, found in zip(texts, tagger.tag_texts(texts, threshold), strict=True)
    ]


def redact(texts: Sequence[str], mode: str, threshold: float, tagger: Tagger) -> list[Redacted]:
    """Each text by itself."""
    redactions = [Redaction([text], mode, _KEY) for text in texts]
    waiting = redactions
    while waiting:
        asked = [(redaction, text) for redaction in waiting for text in redaction.to_tag()]
        for (redaction, _), persons in zip(
            asked, find([text for _, text in asked], threshold, tagger), strict=True
        ):
            redaction.learn([persons])
        waiting = [redaction for redaction, _ in asked]
    return [redaction.results()[0] for redaction in redactions]


def check_offsets(texts: Sequence[str], results: Sequence[Redacted]) -> None:
    """Raises AssertionError unless both texts are the same between what is said to be replaced."""
    for text, result in zip(texts, results, strict=True):
        old = new = 0
        for each in result.replacements:
            assert text[old : each.start] == result.text[new : each.new_start]
            assert result.text[each.new_start : each.new_end] == each.text
            old, new = each.end, each.new_end
        assert text[old:] == result.text[new:]


def figures(
    texts: Sequence[str], gold: Sequence[Sequence[Person]], results: Sequence[Redacted], tagger: Tagger
) -> tuple[object, ...]:
    """As the table has them: names, covered, left, replaced."""
    n_covered = n_names = n_beyond = n_others = 0
    for text, persons, result in zip(texts, gold, results, strict=True):
        replaced, labelled = bytearray(len(text)), bytearray(len(text))
        for each in result.replacements:
            replaced[each.start : each.end] = b"\1" * (each.end - each.start)
        for person in persons:
            where = slice(person.start, person.end)
            labelled[where] = b"\1" * (person.end - person.start)
            n_names += 1
            n_covered += all(
                hidden or not c.isalnum() for hidden, c in zip(replaced[where], text[where], strict=True)
            )
        n_others += labelled.count(0)
        n_beyond += sum(r and not g for r, g in zip(replaced, labelled, strict=True))
    found = find([result.text for result in results], FOUND_AT, tagger)
    n_left = sum(len(left_over(result, persons)) for result, persons in zip(results, found, strict=True))
    return (
        f"{n_names:,}", f"{100 * n_covered / max(1, n_names):.1f}", n_left,
        f"{100 * n_beyond / max(1, n_others):.2f}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
