"""Names put into frames: what is counted, and what is said of it."""

import json
import re
from pathlib import Path

import pytest

from service.settings import ROOT
from training.__main__ import main
from training.names import Names
from training.probe import FORMS, Probe, probes, read_frames, shares
from training.synthesis import templates

FRAMES = ROOT / "tests" / "probe.txt"
NAMES = Names({"x": ["Maria"], "y": ["Harry"], "z": ["Zoe"]}, {"x": ["Stern"], "y": ["Potter"]})


def test_the_frames_that_come_with_the_project_are_read() -> None:
    frames = read_frames(FRAMES)
    assert len(frames) == len(set(frames)) > 100
    assert "-- \n{}" in frames


def test_no_frame_is_a_template_that_models_learn_from() -> None:
    learnt = {re.sub(r"\{[^}]*\}", "{}", template) for template in templates()}
    assert not learnt & {*read_frames(FRAMES)}


@pytest.mark.parametrize("line", ["no slot", "{} and {}"])
def test_a_frame_without_one_slot_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "frames.txt"
    path.write_text(f"# of two lines\n{{}} came.\n{line}\n")
    with pytest.raises(ValueError, match=r"frames\.txt:3: \{\} is expected once"):
        read_frames(path)
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="holds no frame"):
        read_frames(path)


class Finder:
    """Finds every capitalised run but those that begin with Stern."""

    def tag_texts(self, texts):
        from model.head import ScoredSpan, Tagged
        from model.labels import Span
        from model.tokeniser import tokeniser

        for text in texts:
            tokens = tokeniser("treebank-1")(text)
            start = next(i for i, word in enumerate(tokens.texts) if word[0].isupper())
            end = start
            while end < len(tokens) and tokens.texts[end][0].isupper():
                end += 1
            spans = [ScoredSpan(Span(start, end, "PER"), 1.0)] if tokens.texts[start] != "Stern" else []
            yield [(tokens, Tagged([], [], spans))]


def test_whole_names_and_their_parts_are_put_into_every_frame_and_counted() -> None:
    found = probes(Finder(), ["{} came.", "we saw {}\n"], NAMES, 4, 1)  # type: ignore[arg-type]
    assert len(found) == 2 * 4 * len(FORMS)
    assert {one.origin for one in found} == {"x", "y"}  # z has no family names
    assert [one for one in found if not one.found] == [
        Probe(frame, "family", "x", found=False) for frame in ("{} came.", "we saw {}\n") for _ in range(2)
    ]
    assert shares(found, "origin")["x"] == {"full": 1.0, "given": 1.0, "family": 0.0, "all": 2 / 3}
    assert shares(found, "frame")["{} came."]["family"] == 0.5


def test_the_command_lists_the_worst_and_writes_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names"
    names.mkdir()
    for kind in ("forenames", "surnames"):
        rows = "".join(f"GB,A{letter},\n" for letter in "abcde")
        (names / f"{kind}.csv").write_text("Country,Localized Name,Romanized Name\n" + rows)
    frames = tmp_path / "frames.txt"
    frames.write_text("Dear {},\n{} sat down.\n")
    command = [
        "probe",
        str(ROOT / "artefacts" / "en-person"),
        "--names",
        str(names),
        "--frames",
        str(frames),
    ]
    assert main([*command, "-n", "8", "--worst", "1", "--json", str(tmp_path / "out.json")]) == 0
    said = capsys.readouterr().out
    assert "all: full " in said
    assert ("Dear {}," in said) != ("{} sat down." in said)
    assert set(json.loads((tmp_path / "out.json").read_text())["frame"]) == {"Dear {},", "{} sat down."}
    assert main([*command[:-1], str(tmp_path / "none.txt")]) == 2
