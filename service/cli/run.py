"""``nametag train`` and ``nametag evaluate``: what ``python -m training`` does, which is not for servers.

In a process of its own: the service does not import training, and an image that serves has none of
what training needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from service.cli.arguments import ROOT
from service.cli.errors import CliError


@dataclass(frozen=True)
class Passed:
    """A command whose arguments, --help included, go on as they are."""

    NAME: str
    HELP: str
    DESCRIPTION: str = ""
    HAS_HELP: bool = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """None here: main() passes them on before they are read."""

    def run(self, _: argparse.Namespace) -> int:
        return passed_on([self.NAME])


TRAIN = Passed("train", "train a tagger on labelled files")
EVALUATE = Passed("evaluate", "score a model on labelled files")


def passed_on(arguments: list[str]) -> int:
    """Becomes ``python -m training``. Raises CliError where what it needs is not installed."""
    if find_spec("torch") is None:
        raise CliError(f"{arguments[0]}: pip install 'nametag[training]' first")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # -P: not what happens to be called "training" in the current folder.
    command = [sys.executable, "-P", "-m", "training", *arguments]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})
