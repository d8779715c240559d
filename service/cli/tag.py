"""``nametag tag``: files in, the persons in them out."""

from __future__ import annotations

import argparse
import sys

from service.cli.arguments import add_files, inputs_of, model_folder, probability, scale_of
from service.cli.errors import CliError
from service.cli.inputs import Reading
from service.cli.places import kind_of

NAME = "tag"
HELP = "find the persons in files"
HAS_HELP = True
DESCRIPTION = """\
Finds the persons in files, with all cores and in constant memory, however large a file is.

Of a text, what is between blank lines is a document, and offsets count from the start of the file.
Of JSON lines every line is one, of a csv and of Parquet every row. A file that cannot be read, or a
line that is wrong, is reported, and the rest is done."""
SUFFIXES = {
    "jsonl": ".jsonl", "conll": ".conll", "csv": ".csv", "parquet": ".parquet",
    "text": ".txt", "colour": ".txt",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument(
        "--format", choices=("jsonl", "conll", "csv", "parquet", "text"),
        help="text marks the persons, in colour on a terminal; a csv gets one more column "
        "(text on a terminal; csv of csv; else jsonl)",
    )  # fmt: skip
    parser.add_argument("--tokens", action="store_true", help="jsonl with all tokens, as POST /v1/tag")
    parser.add_argument(
        "--threshold", type=probability, help="persons that score lower are left out (the model's)"
    )
    parser.add_argument(
        "--split", choices=("paragraph", "line"), default="paragraph",
        help="a text's documents: what is between blank lines, or every line (paragraph)",
    )  # fmt: skip


def run(asked: argparse.Namespace) -> int:
    from service.cli.files import run as run_files
    from service.cli.records import Options

    inputs = inputs_of(asked)
    is_terminal = asked.out is None and sys.stdout is not None and sys.stdout.isatty()
    kinds = {asked.input or kind_of(each.path) for each in inputs}
    chosen = asked.format or (
        "jsonl" if asked.tokens
        else kinds.pop() if kinds == {"csv"} or kinds == {"tsv"}
        else "text" if is_terminal else "jsonl"
    )  # fmt: skip
    chosen = "csv" if chosen == "tsv" else chosen
    if chosen == "text" and is_terminal:
        chosen = "colour"
    if chosen == "parquet":
        from service.cli import parquet

        parquet.check()
    if asked.tokens and chosen != "jsonl":
        raise CliError("--tokens: --format jsonl is expected")
    options = Options(
        model=model_folder(asked.model),
        threshold=asked.threshold,
        unit=asked.offset_unit,
        format=chosen,
        has_tokens=asked.tokens,
        column=asked.column,
        field=asked.field,
        device=asked.device,
    )
    how = Reading(asked.offset_unit, asked.split, asked.input, asked.column, asked.field)
    return run_files(inputs, how, options, out=asked.out, suffix=SUFFIXES[chosen], scale=scale_of(asked))
