"""Lists of names in, the weights of model.name_origins out, and how often they are right.

Reads ``common-{forenames,surnames}-by-country.csv`` (CC0) and the person providers of the package
faker (MIT). No name of either is in the weights, which are sums over letter groups of all of them.
"""

from __future__ import annotations

import csv
import json
import pkgutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from model.name_origins import N_BUCKETS, buckets
from training.names import is_latin

# Countries of the lists, and locales of faker, in which most names are of one origin.
_SOURCES = {
    "English": "GB US AU NZ JM en_GB en_US en_NZ",
    "Irish": "IE en_IE ga_IE",
    "German": "DE AT LI de_DE de_AT de_CH",
    "French": "FR MC HT fr_FR fr_QC",
    "Spanish": "ES MX AR CL UY VE PY PA GT CU DO SV es_ES es_MX es_AR es_CL es_CO",
    "Portuguese": "PT BR pt_PT pt_BR",
    "Italian": "IT SM it_IT",
    "Dutch": "NL nl_NL nl_BE",
    "Scandinavian": "DK NO SE FO da_DK no_NO sv_SE",
    "Icelandic": "is_IS",
    "Polish": "PL pl_PL",
    "Czech": "CZ SK cs_CZ sk_SK",
    "Russian": "RU UA BY BG ru_RU uk_UA",
    "South Slavic": "BA HR RS ME SI hr_HR sl_SI",
    "Hungarian": "hu_HU",
    "Romanian": "RO MD ro_RO",
    "Greek": "GR CY",
    "Turkish": "tr_TR",
    "Arabic": "AE EG SA JO KW LB LY MA TN DZ IQ",
    "Persian": "IR TJ",
    "Hebrew": "IL",
    "Indian": "NP en_IN",
    "Pakistani": "PK en_PK",
    "Chinese": "CN TW",
    "Vietnamese": "VN vi_VN",
    "Japanese": "JP ja_JP",
    "Korean": "KR",
    "Yoruba": "yo_NG",
    "Igbo": "ig_NG",
    "Hausa": "ha_NG",
}
# As newspapers write Russian names (BGN/PCGN, simplified).
_CYRILLIC = dict(
    zip(
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґ",
        "a b v g d e e zh z i y k l m n o p r s t u f kh ts ch sh shch  y  e yu ya i i e g".split(" "),
        strict=True,
    )
)
_HELD_OUT = 10  # one word in so many
_UNKNOWN = -1


@dataclass(frozen=True, slots=True, order=True)
class Word:
    """A word of a name. ``is_female``: 1, 0, or -1 where nobody says."""

    text: str
    origin: int
    is_female: int
    is_surname: int


def read_words(folder: Path, origins: Sequence[str]) -> list[Word]:
    """Every word once for each origin, in order. Raises ValueError where the folder holds no lists."""
    known = {source: origins.index(name) for name, text in _SOURCES.items() for source in text.split()}
    words: set[Word] = set()

    def add(name: str, origin: int, is_female: int, is_surname: int) -> None:
        name = "".join(_CYRILLIC.get(letter, letter) for letter in name.casefold())
        words.update(
            Word(word, origin, is_female, is_surname)
            for word in name.replace("-", " ").split()
            if len(word) > 2 and is_latin(word)
        )

    paths = sorted(folder.glob("common-*-by-country.csv"))
    if not paths:
        raise ValueError(f"{folder}: holds no common-*-by-country.csv")
    for path in paths:
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                if row["Country"] in known:
                    name = row["Romanized Name"] or row["Localized Name"]
                    is_female = {"F": 1, "M": 0}.get(row.get("Gender", ""), _UNKNOWN)
                    add(name, known[row["Country"]], is_female, int("surname" in path.name))
    person: Any = import_module("faker.providers.person")
    for module in pkgutil.iter_modules(person.__path__):
        if module.name not in known:
            continue
        provider: Any = import_module(f"faker.providers.person.{module.name}").Provider
        for attribute in dir(provider):
            values = getattr(provider, attribute)
            if not attribute.startswith(("first_name", "last_name", "first_romanized", "last_romanized")):
                continue
            if isinstance(values, list | tuple | dict):
                is_female = 1 if "_female" in attribute else 0 if "_male" in attribute else _UNKNOWN
                for value in values:
                    name = value[0] if isinstance(value, tuple) else value
                    if isinstance(name, str):
                        add(name, known[module.name], is_female, int(attribute.startswith("last_")))
    return sorted(words)


def is_held_out(word: Word) -> bool:
    """By the word alone, so that one of two origins is not learnt and asked for at once."""
    return zlib.crc32(b"held out " + word.text.encode()) % _HELD_OUT == 0


def fit(words: Sequence[Word], n_origins: int, *, seed: int, epochs: int = 8) -> nn.EmbeddingBag:
    """Rows (N, K + 2); the last two columns are of is_female and is_surname."""
    torch.manual_seed(seed)
    table = nn.EmbeddingBag(N_BUCKETS + 1, n_origins + 2, mode="sum")  # the last row is the bias
    nn.init.zeros_(table.weight)
    optimiser = torch.optim.AdamW(table.parameters(), lr=0.02, weight_decay=0.1)
    counts = np.bincount([w.origin for w in words], minlength=n_origins)
    # Between counting names and counting origins: else all that is in doubt is Spanish.
    weight = torch.tensor(1 / np.sqrt(np.maximum(counts, 1)), dtype=torch.float32)
    for _ in range(epochs):
        order = torch.randperm(len(words)).tolist()
        for first in range(0, len(words), 256):
            batch = [words[i] for i in order[first : first + 256]]
            scores = _scores(table, batch)
            origin = torch.tensor([w.origin for w in batch])
            loss = nn.functional.cross_entropy(scores[:, :-2], origin, weight)
            female = torch.tensor([float(w.is_female) for w in batch])
            said = female >= 0
            if said.any():
                loss = loss + nn.functional.binary_cross_entropy_with_logits(scores[said, -2], female[said])
            surname = torch.tensor([float(w.is_surname) for w in batch])
            loss = loss + nn.functional.binary_cross_entropy_with_logits(scores[:, -1], surname)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return table


def _scores(table: nn.EmbeddingBag, words: Sequence[Word]) -> torch.Tensor:
    bags = [[*buckets(w.text), N_BUCKETS] for w in words]
    starts = np.cumsum([0, *map(len, bags[:-1])])
    scores: torch.Tensor = table(torch.tensor([b for bag in bags for b in bag]), torch.tensor(starts))
    return scores


def accuracy(table: nn.EmbeddingBag, words: Sequence[Word]) -> dict[str, float]:
    """Shares of words: origin right, right among the first three, gender right, role right."""
    with torch.no_grad():
        scores = _scores(table, words).numpy()
    ranked = np.argsort(-scores[:, :-2], axis=1)
    # A name that is at home with several has them all right.
    homes: dict[str, set[int]] = {}
    for word in words:
        homes.setdefault(word.text, set()).add(word.origin)
    first = [ranked[i, 0] in homes[w.text] for i, w in enumerate(words)]
    third = [bool(homes[w.text] & set(ranked[i, :3].tolist())) for i, w in enumerate(words)]
    female = [(scores[i, -2] > 0) == w.is_female for i, w in enumerate(words) if w.is_female >= 0]
    surname = [(scores[i, -1] > 0) == w.is_surname for i, w in enumerate(words)]
    return {
        name: round(float(np.mean(found)), 3)
        for name, found in (
            ("origin", first), ("origin among three", third), ("gender", female), ("surname", surname)
        )
    }  # fmt: skip


def rounded(table: nn.EmbeddingBag) -> dict[str, NDArray[np.generic]]:
    """What is saved of it; the table's own rows become what will be loaded."""
    weights = table.weight.detach().numpy()
    scale = np.abs(weights[:-1]).max(0) / 127  # (K + 2,)
    scale[scale == 0] = 1
    rows = np.round(weights[:-1] / scale).astype(np.int8)
    with torch.no_grad():
        table.weight[:-1] = torch.from_numpy(rows * scale)
    return {"rows": rows, "scale": scale.astype(np.float32), "bias": weights[-1].astype(np.float32)}


def make(folder: Path, path: Path, *, seed: int) -> dict[str, float]:
    """Writes the weights, learnt from all words; the figures are of weights learnt from nine in ten, on
    the tenth."""
    origins = tuple(_SOURCES)
    words = read_words(folder, origins)
    held_out = [w for w in words if is_held_out(w)]
    tried = fit([w for w in words if not is_held_out(w)], len(origins), seed=seed)
    rounded(tried)
    figures = {"words": len(words), "held out": len(held_out), **accuracy(tried, held_out)}
    tensors = rounded(fit(words, len(origins), seed=seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, {"origins": json.dumps(origins), "held_out": json.dumps(figures)}))
    return figures
