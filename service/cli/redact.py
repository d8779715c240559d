"""``nametag redact``: files in, the same files without the persons' names out."""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from service.cli.arguments import add_files, inputs_of, model_folder, probability, scale_of
from service.cli.errors import CliError
from service.cli.inputs import Reading
from service.cli.places import kind_of

NAME = "redact"
HELP = "replace the persons' names in files"
HAS_HELP = True
DESCRIPTION = """\
Replaces the names of persons in files, with all cores, as POST /v1/redact does.

A text keeps every other character; a csv and JSON lines keep all but the column or field. A person
has the same number, or the same invented name, throughout one text, row or line; a text of more than
a million characters is done in pieces, each by itself. A hash is of the fullest form of the name in that
text, row or line, and the same wherever that is. Names that the model does not find stay where they are."""
MODES = ("mask", "label", "hash", "pseudonym")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument(
        "--mode", choices=MODES, required=True,
        help="mask: █████; label: [PERSON_1]; hash: [PERSON_3f2a90c1b2d4e6f8], of the name and the key; "
        "pseudonym: an invented name",
    )  # fmt: skip
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE",
        help="holds the secret that hashes are made with, and that chooses invented names",
    )  # fmt: skip
    parser.add_argument("--threshold", type=probability, help="persons that score this are replaced (0.05)")
    parser.add_argument(
        "--format", choices=("same", "jsonl"), default="same",
        help="jsonl: the redacted text and the list of replacements, as POST /v1/redact (same)",
    )  # fmt: skip


def run(asked: argparse.Namespace) -> int:
    from service.cli.files import run as run_files
    from service.cli.records import Options
    from service.redaction.texts import KEYED, THRESHOLD

    inputs = inputs_of(asked)
    if asked.format == "same" and any((asked.input or kind_of(each.path)) == "parquet" for each in inputs):
        raise CliError("Parquet: --format jsonl is expected")
    key = b""
    if asked.key_file is not None:
        key = _key(asked.key_file)
    elif asked.mode == "hash":
        raise CliError("--mode hash: --key-file is expected: hashes without a key can be undone")
    elif asked.mode == "pseudonym":
        if asked.out is not None:
            raise CliError("--out: --key-file is expected: a run that goes on has to choose the same names")
        key = secrets.token_bytes(32)
    options = Options(
        model=model_folder(asked.model),
        threshold=THRESHOLD if asked.threshold is None else asked.threshold,
        unit=asked.offset_unit,
        format=asked.format,
        mode=asked.mode,
        key=key if asked.mode in KEYED else b"",
        column=asked.column,
        field=asked.field,
        device=asked.device,
    )
    how = Reading(asked.offset_unit, "whole", asked.input, asked.column, asked.field)
    suffix = ".jsonl" if asked.format == "jsonl" else ""
    return run_files(inputs, how, options, out=asked.out, suffix=suffix, scale=scale_of(asked))


def _key(path: Path) -> bytes:
    from service.keys import KeysError, read_secret
    from service.redaction.texts import MIN_KEY_CHARS

    try:
        return read_secret(path, least_chars=MIN_KEY_CHARS)
    except KeysError as error:
        raise CliError(str(error)) from None
