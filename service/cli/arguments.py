"""Arguments that commands share. Reads nothing heavy: `nametag --help` comes here."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from service.cli.errors import CliError
from service.cli.inputs import HAVE_COLUMNS, KINDS, LENGTHS
from service.cli.places import STDIN, Input, kind_of
from service.cli.places import inputs_of as inputs_named
from service.cli.scale import Scale

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULT_MODEL = "en-person"


def add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="text, .jsonl, .csv, .tsv, each with .gz or .xz too, or .parquet; a folder of them; a URL; "
        "- is stdin",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="write an output for each file there; the same command goes on where it was interrupted",
    )  # fmt: skip
    parser.add_argument("--input", choices=KINDS, help="what the files are (by their names)")
    parser.add_argument(
        "--column", metavar="NAME", help="of a csv, tsv or Parquet, the one that holds the text"
    )
    parser.add_argument("--field", metavar="NAME", default="text", help="of JSON lines (text)")
    parser.add_argument(
        "--offset-unit", choices=tuple(LENGTHS), default="codepoint", help="what offsets count (codepoint)"
    )
    add_model(parser)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="cpu", help="what to tag on (cpu)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="processes (one for each core, or GPU of a cluster)"
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="ray: Ray Data, on this machine or a cluster (local)",
    )  # fmt: skip
    parser.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="of a Ray cluster that is there: auto, HOST:PORT or ray://HOST:PORT (one of its own)",
    )  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="MODEL",
        help=f"a model folder, or a bundled model's name (NAMETAG_MODEL's first, or {DEFAULT_MODEL})",
    )  # fmt: skip


def positive(raw: str) -> int:
    value = int(raw)
    if value < 1:
        raise argparse.ArgumentTypeError("a whole number above 0 is expected")
    return value


def probability(raw: str) -> float:
    value = float(raw)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("a number from 0 to 1 is expected")
    return value


def model_folder(asked: str | None) -> Path:
    """Raises CliError."""
    named = asked or os.environ.get("NAMETAG_MODEL", "").split(os.pathsep)[0] or DEFAULT_MODEL
    for folder in (Path(named), ROOT / "artefacts" / named):
        if (folder / "manifest.json").is_file():
            return folder
    raise CliError(f"{named}: neither a model folder nor one of the models that `nametag models` lists")


def inputs_of(asked: argparse.Namespace) -> list[Input]:
    """The files, stdin where there are none. Raises CliError."""
    names: list[str] = asked.files or [STDIN]
    if names.count(STDIN) > 1:
        raise CliError("stdin can be read once")
    inputs = inputs_named(names, asked.input, asked.out)
    for each in inputs:
        kind = asked.input or kind_of(each.path)
        if kind in HAVE_COLUMNS and asked.column is None:
            raise CliError(f"{each.name}: --column is expected: the name of the one that holds the text")
        if kind == "parquet" and each.is_stream:
            raise CliError(f"{each.said}: a Parquet file is read from its end: a file is expected")
    return inputs


def scale_of(asked: argparse.Namespace) -> Scale:
    """Raises CliError."""
    if asked.engine == "ray":
        return Scale("ray", asked.workers or 0, asked.ray_address)
    if asked.ray_address is not None:
        raise CliError("--ray-address: --engine ray is expected")
    from model.backend import usable_cpus

    # A GPU takes one process: more would only share it.
    return Scale("local", asked.workers or (usable_cpus() if asked.device == "cpu" else 1))
