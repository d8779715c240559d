"""``nametag models``: the model folders there are, with their versions and sizes."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from service.cli.arguments import ROOT
from service.cli.errors import CliError

NAME = "models"
HELP = "list the models there are"
HAS_HELP = True
DESCRIPTION = """\
Lists the bundled models, those of NAMETAG_MODEL and those below NAMETAG_MODELS_DIR, and of other
folders that are given: name, version, size, folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="of models, or model folders"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines")


def run(asked: argparse.Namespace) -> int:
    for folder in asked.folders:
        if not any(_config(each.parent) for each in _manifests(folder)):
            raise CliError(f"{folder}: holds no model: a model folder, or a folder of them, is expected")
    found = list(_listed(_places(asked.folders)))
    if asked.json:
        for each in found:
            print(json.dumps(each))
        return 0
    shown = [
        (f"{m['name']}@{m['version']}", f"{int(str(m['bytes'])) / 1e6:,.0f} MB", str(m["folder"]))
        for m in found
    ]
    widths = [max((len(row[i]) for row in shown), default=0) for i in range(2)]
    for reference, size, folder in shown:
        print(f"{reference:{widths[0]}}  {size:>{widths[1]}}  {folder}")
    return 0


def _places(more: list[Path]) -> Iterator[Path]:
    """Model folders, and folders of them."""
    yield ROOT / "artefacts"
    yield from (Path(each) for each in os.environ.get("NAMETAG_MODEL", "").split(os.pathsep) if each)
    if below := os.environ.get("NAMETAG_MODELS_DIR"):
        yield Path(below)
    yield from more


def _manifests(place: Path) -> Iterator[Path]:
    """Where those of models may be: of the folder itself, and of the folders in it."""
    yield place / "manifest.json"
    yield from sorted(place.glob("*/manifest.json"))


def _listed(places: Iterator[Path]) -> Iterator[dict[str, object]]:
    seen: set[Path] = set()
    for place in places:
        for manifest in _manifests(place):
            folder = Path(os.path.abspath(manifest.parent))
            config = _config(folder)
            if config is None or folder in seen:
                continue
            seen.add(folder)
            size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
            yield {**config, "bytes": size, "folder": str(folder)}


def _config(folder: Path) -> dict[str, object] | None:
    try:
        tagger = json.loads((folder / "config.json").read_bytes())["tagger"]
        return {"name": tagger["name"], "version": tagger.get("version", "1")}
    except (OSError, ValueError, LookupError, TypeError):
        return None  # no model, or a broken one: loading it says how


def identity_of(folder: Path) -> str:
    """Which model a folder holds, and which files. Raises CliError."""
    config = _config(folder)
    if config is None:
        raise CliError(f"{folder}: holds no model that can be read")
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    return f"{config['name']}@{config['version']} {digest[:16]}"
