"""A path or a version asked for in, a model folder that the operator allows out.

Allowed are the folders of NAMETAG_MODEL and what is below NAMETAG_MODELS_DIR. Paths are compared as
they are written, with their ".." undone, before anything is opened; links that stand in those
folders are followed, since only the operator can put them there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from model.artefact import MANIFEST
from service.reloading.lineup import ChangeError
from service.settings import Settings


def allowed_folder(path: str, settings: Settings) -> Path:
    """The folder of a path; a relative one is below NAMETAG_MODELS_DIR. Raises ChangeError."""
    base = settings.models_dir
    asked = _plain(Path(path) if base is None else base / path)
    for folder in settings.model:
        if asked == _plain(folder):
            return folder
    if base is not None and _plain(base) in asked.parents:
        return asked
    where = "a folder of NAMETAG_MODEL" + (", or one below NAMETAG_MODELS_DIR" if base else "")
    raise ChangeError("folder-not-allowed", f"path: {where} is expected")


def _plain(path: Path) -> Path:
    # Not Path.resolve(), which would follow links before the comparison.
    return Path(os.path.abspath(path))


def folder_of(name: str, version: str, settings: Settings) -> Path:
    """The one allowed folder that holds this version. Raises ChangeError."""
    folders = {_plain(folder): folder for folder in settings.model}
    if settings.models_dir is not None:
        for pattern in (f"*/{MANIFEST}", f"*/*/{MANIFEST}"):
            for manifest in sorted(settings.models_dir.glob(pattern)):
                folders.setdefault(_plain(manifest.parent), manifest.parent)
    found = [folder for folder in folders.values() if _says_it_is(folder, name, version)]
    if not found:
        raise ChangeError("unknown-model", f"no folder that may be loaded holds {name}@{version}")
    if len(found) > 1:
        raise ChangeError(
            "load-failed", f"{name}@{version} is in {' and in '.join(map(str, found))}: give a path"
        )
    return found[0]


def _says_it_is(folder: Path, name: str, version: str) -> bool:
    try:
        tagger = json.loads((folder / "config.json").read_bytes())["tagger"]
        return bool((tagger["name"], tagger.get("version", "1")) == (name, version))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False  # broken, or half copied: loading it by its path says how
