"""``nametag`` as users run it: in its own process, on files, and killed in the middle of them."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import multiprocessing
import operator
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import termios
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.tagger import Tagger
from service.cli import arguments, inputs, places, redact
from service.cli.engine import Engine
from service.cli.errors import CliError, InputError
from service.cli.formats import csv_line
from service.cli.inputs import Reading, lines_of
from service.cli.parts import CHUNKS_PER_PART, Folder, write_atomically
from service.cli.records import Chunk, Record
from service.offsets import UNITS
from service.redaction.texts import MODES
from service.settings import ROOT
from service.signals import without_interrupts
from tests.running import environment
from tests.strategies import any_text, brief
from tests.test_redact import CUT

SENTENCE = "Harry Potter met Hermione Granger in London . "


def command(*arguments):
    return [sys.executable, "-m", "service.cli", *map(str, arguments)]


def nametag(*arguments, stdin=b"", code=0, **settings):
    """What it writes to stdout, and to stderr."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env=environment(**settings), input=stdin, capture_output=True,
        timeout=300, check=False,
    )  # fmt: skip
    errors = done.stderr.decode()
    assert done.returncode == code, errors
    assert "Traceback" not in errors
    return done.stdout.decode(), errors


@pytest.fixture(scope="module")
def tag(tiny_artefact):
    def run(*arguments, **options):
        return nametag("tag", *arguments, "--model", tiny_artefact, "--threshold", 0.1, **options)

    return run


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Some megabytes of paragraphs, of all lengths."""
    rng = random.Random(1)
    words = [*SENTENCE.split(), "é", "🎉", "Jane"]
    path = tmp_path_factory.mktemp("large") / "large.txt"
    paragraphs = [" ".join(rng.choices(words, k=rng.randint(1, 120))) for _ in range(6_000)]
    path.write_text("\n\n".join(paragraphs), "utf-8")
    return path


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


# Text


@pytest.mark.parametrize("unit", UNITS)
def test_offsets_of_a_text_count_from_the_start_of_its_file(tag, tmp_path, unit):
    text = "\n\n🎉 Harry Potter met\r\nHermione .\n \nÉlodie met Jane . 👩‍🚀\n\n\nHarry left ."
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    found = lines(tag(path, "--offset-unit", unit)[0])
    assert [each["line"] for each in found] == [3, 6, 9]
    assert {each["file"] for each in found} == {str(path)}
    persons = [person for each in found for person in each["persons"]]
    assert len(persons) > 3
    for each in (*found, *persons):
        cut = CUT[unit](text, each["start"], each["end"])
        assert cut == each.get("text", cut.strip())
    whole = lines(tag(path, "--offset-unit", unit, "--tokens")[0])
    tokens = [t for each in whole for s in each["sentences"] for t in s["tokens"]]
    assert [CUT[unit](text, t["start"], t["end"]) for t in tokens] == [t["text"] for t in tokens]
    assert "".join(t["text"] for t in tokens) == "".join(text.split())


def test_a_text_in_paragraphs_has_the_answers_of_the_model_for_each(tag, tiny_artefact, large):
    """Against the model itself, asked for all paragraphs at once."""
    paragraphs = large.read_text("utf-8").split("\n\n")
    expected = []
    at = 0
    answers = Tagger.load(tiny_artefact, device="cpu").tag_texts(paragraphs, 0.1)
    for paragraph, found in zip(paragraphs, answers, strict=True):
        for cut, tagged in found:
            for scored in tagged.spans:
                expected.append((at + cut.starts[scored.span.start], at + cut.ends[scored.span.end - 1]))
        at += len(paragraph) + 2
    output, errors = tag(large, "--workers", 2)
    assert [(p["start"], p["end"]) for each in lines(output) for p in each["persons"]] == expected
    assert not errors
    assert tag(large, "--workers", 1)[0] == output


def test_every_line_may_be_a_document(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Harry\nJane left\n\nHermione")
    found = lines(tag(path, "--split", "line")[0])
    assert [(each["line"], each["start"], each["end"]) for each in found] == [
        (1, 0, 5),
        (2, 6, 15),
        (4, 17, 25),
    ]


@brief
@given(st.lists(any_text | st.just("\n\n"), max_size=8), st.integers(1, 7), st.integers(1, 9))
def test_whatever_the_text_and_however_it_comes_its_lines_are_all_of_it(texts, step, most):
    text = "".join(texts)
    blocks = [text[i : i + step] for i in range(0, len(text), step)]
    found = list(lines_of(iter(blocks), most))
    assert "".join(found) == text
    assert found == list(lines_of(iter([text] if text else []), most))
    assert all(len(each) <= most for each in found)
    assert all("\n" not in each[:-1] for each in found)


def test_a_chunk_is_the_same_in_another_process():
    records = [
        Record(1, 0, "Ada \U0001f600", 7, ("a", "b"), {"text": "Ada"}),
        InputError("x:2: is not JSON"),
    ]
    sent = pickle.loads(pickle.dumps(Chunk("x", "jsonl", ("a",), records, 3, 99)))
    assert (sent.name, sent.kind, sent.header, sent.index, sent.position) == ("x", "jsonl", ("a",), 3, 99)
    assert sent.records[0] == records[0]
    assert isinstance(sent.records[0], Record)
    assert str(sent.records[1]) == "x:2: is not JSON"


@brief
@given(st.text(st.sampled_from("ab \n\té🎉\r"), max_size=60), st.sampled_from(UNITS))
def test_records_are_the_text_but_for_blank_lines(text, unit):
    records = list(inputs._txt(iter([text] if text else []), Reading(unit)))
    for record in records:
        assert isinstance(record, Record)
        length = inputs.LENGTHS[unit](record.text)
        assert CUT[unit](text, record.start, record.start + length) == record.text
        assert (
            text[: len(text.encode()[: record.start].decode()) if unit == "utf8" else 0].count("\n")
            <= record.line
        )
    assert "".join("".join(r.text.split()) for r in records) == "".join(text.split())
    whole = list(inputs._txt(iter([text] if text else []), Reading(unit, "whole")))
    assert "".join(record.text for record in whole) == text


# Other inputs, other outputs


def test_compressed_files_are_read_as_what_is_in_them(tag, tmp_path):
    content = (SENTENCE + "\n").encode() * 3
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(content))
    outputs = [tag(tmp_path / f"a.txt{end}")[0] for end in ("", ".gz", ".xz")]
    plain = outputs[0].replace("a.txt", "")
    assert [
        each.replace(f"a.txt{end}", "") for each, end in zip(outputs, ("", ".gz", ".xz"), strict=True)
    ] == ([plain] * 3)


def test_stdin_is_read_where_there_are_no_files(tag):
    for arguments_ in ((), ("-",)):
        (found,) = lines(tag(*arguments_, stdin=SENTENCE.encode())[0])
        assert "file" not in found
        assert found["persons"]


def test_json_lines_keep_their_id_and_a_bad_one_fails_alone(tag, tmp_path):
    path = tmp_path / "a.jsonl"
    good = {"text": SENTENCE, "id": 12345678901234567890123}
    bad = ["{", "[]", '{"txt": "Zebedee"}', '{"text": 1}', '{"text": "\\ud800"}', "\ufeff{}"]
    path.write_text("\n".join([json.dumps(good), "", *bad, json.dumps({"text": "", "id": "é"})]), "utf-8")
    output, errors = tag(path, code=1)
    first, last = lines(output)
    assert (first["line"], first["id"], last["line"], last["id"]) == (1, good["id"], 9, "é")
    assert [p["text"] for p in first["persons"]] == [
        SENTENCE[p["start"] : p["end"]] for p in first["persons"]
    ]
    assert [line.split(":")[2] for line in errors.splitlines()] == [str(n) for n in range(3, 9)]
    assert "Zebedee" not in errors


def test_a_csv_keeps_its_columns_and_gets_one_more(tag, tmp_path):
    rows = [["id", "note", "more"], ["1", 'Harry Potter,\n met "Jane"', "é"], ["2", "", "x"], ["3"], []]
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    output, errors = tag(path, "--column", "note", code=1)
    header, first, second = csv.reader(io.StringIO(output, newline=""))
    assert header == [*rows[0], "persons"]
    assert [first[:3], second] == [rows[1], [*rows[2], ""]]
    assert first[3]
    assert "a.csv:5: 1 columns, and 3 are expected" in errors
    assert "no column 'nope'" in tag(path, "--column", "nope", code=1)[1]
    assert "--column" in tag(path, code=2)[1]


def test_a_malformed_row_of_a_csv_fails_alone_and_an_open_quote_ends_it(tag, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,note\n1,"Harry"\n2,"Ada" Byron came\n3,a\rb\n4,Jane left\n')
    output, errors = tag(path, "--column", "note", code=1)
    assert [row[:2] for row in csv.reader(io.StringIO(output))][1:] == [["1", "Harry"], ["4", "Jane left"]]
    assert [line.split(":")[2] for line in errors.splitlines()] == ["3", "4"]
    path.write_text('id,note\n1,Harry\n2,"Ada\n3,Jane\n')
    output, errors = tag(path, "--column", "note", code=1)
    assert output.count("\n") == 2
    assert errors.endswith("a.csv:3: unexpected end of data\n")


@brief
@given(st.lists(st.text(st.sampled_from('a,"\t\r\né '), max_size=6), min_size=1, max_size=4))
def test_a_row_that_is_written_is_read_again(row):
    for kind, separator in inputs.SEPARATORS.items():
        line = csv_line(tuple(row), kind).decode()
        assert list(csv.reader(lines_of(iter([line]), 100), delimiter=separator, strict=True)) == [row]


def test_the_output_of_a_tsv_is_one(tag, tmp_path):
    for name in ("a.tsv", "b.dat"):
        (tmp_path / name).write_text("n\tnote\n1\tHarry Potter left\n")
    (tmp_path / "c.csv").write_text("n,note\n1,Harry Potter left\n")
    out = tmp_path / "out"
    tag(tmp_path / "a.tsv", tmp_path / "c.csv", "--column", "note", "--format", "csv", "--out", out)
    assert sorted(outputs(out)) == ["a.tsv", "c.csv", "manifest.json"]
    assert (out / "a.tsv").read_text().startswith("n\tnote\tpersons\n")
    tag(tmp_path / "b.dat", "--input", "tsv", "--column", "note", "--out", tmp_path / "other")
    assert (tmp_path / "other" / "b.dat.tsv").is_file()


def test_json_that_is_nested_deep_is_a_bad_line_and_the_rest_is_done(tag, tmp_path):
    """With so much beside it that processes are started, to which it would have to go."""
    path = tmp_path / "a.jsonl"
    deep = '{"text": "Ada", "x": ' + "[" * 900 + "]" * 900 + "}"
    flat = json.dumps({"text": SENTENCE * 700, "x": [[]] * 300})
    path.write_text("\n".join([flat, deep, *[flat] * 20]))
    output, errors = tag(path, "--workers", 2, code=1)
    assert len(lines(output)) == 21
    assert errors == f"nametag: {path}:2: is nested deeper than 200 levels, which are expected at most\n"


@pytest.mark.parametrize(("n_levels", "is_good"), [(199, True), (200, False)])
def test_two_hundred_levels_of_json_are_read_and_written(n_levels, is_good):
    content = '{"text": "Ada", "x": ' + "[" * n_levels + "]" * n_levels + "}"
    found = inputs._object(content, "a.jsonl:1", 1, "text")
    assert isinstance(found, Record) == is_good


def test_a_text_that_is_marked_keeps_its_blank_lines(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\nHarry met\nJane .\n\n \nHermione left .\n\n")
    for split in ("paragraph", "line"):
        output, _ = tag(path, "--format", "text", "--split", split)
        assert re.sub(r"[\[\]]", "", output) == "\nHarry met\nJane .\n\n\nHermione left .\n"


def test_what_is_no_file_is_read_once_and_not_into_a_folder(tag, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["bash", "-c", 'printf "Harry met Jane ." > "$0"', pipe]):
        (found,) = lines(tag(pipe)[0])
    assert found["persons"]
    (found,) = lines(tag("/dev/stdin", stdin=SENTENCE.encode())[0])
    assert found["persons"]
    _, errors = tag(pipe, "--out", tmp_path / "out", code=2)
    assert f"--out takes files: {pipe} cannot be read again" in errors
    assert not (tmp_path / "out").exists()
    _, errors = tag(pipe, "--engine", "ray", code=2)
    assert f"files are expected, and not {pipe}" in errors
    assert "a file is expected" in tag(pipe, "--input", "parquet", "--column", "x", code=2)[1]


def test_a_name_that_is_not_utf_8_is_said_with_an_escape(tag, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text(SENTENCE)
    for format_ in ("jsonl", "csv"):
        assert "caf\\xe9.txt" in tag(path, "--format", format_)[0].replace("\\\\", "\\")
    out = tmp_path / "out"
    tag(path, tmp_path, "--out", out)
    output = out / os.fsdecode(b"caf\xe9.txt.jsonl")
    written = output.stat().st_mtime_ns
    tag(path, tmp_path, "--out", out)
    assert output.stat().st_mtime_ns == written
    (manifest,) = json.loads((out / "manifest.json").read_text("utf-8"))["inputs"].values()
    assert (manifest["state"], manifest["path"]) == ("done", str(tmp_path / "caf\\xe9.txt"))


@pytest.mark.parametrize(
    ("closed", "said", "n_lines"),
    [(">&-", "stdout: is closed", 0), ("<&-", "stdin: is closed", 0), ("2>&-", "", 1)],
)
def test_what_is_closed_is_said_and_does_without_a_traceback(tiny_artefact, closed, said, n_lines):
    shell = f'exec "$@" {closed}'
    done = subprocess.run(
        ["bash", "-c", shell, "-", *command("tag", "--model", tiny_artefact, "nope.txt", "-")], cwd=ROOT,
        env=environment(), input=b"Ada", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert len(lines(done.stdout)) == n_lines


def test_conll_has_a_line_for_each_token(tag):
    output, _ = tag("--format", "conll", stdin=SENTENCE.encode() * 2)
    tokens = [line.split("\t") for line in output.splitlines() if line]
    assert [token for token, _ in tokens[1:]] == (SENTENCE * 2).split()
    assert {label for _, label in tokens} <= {"O", "B-PER", "I-PER"}


def test_persons_are_in_colour_on_a_terminal_alone(tag, tiny_artefact):
    output, _ = tag("--format", "text", stdin=SENTENCE.encode())
    assert output.replace("[", "").replace("]", "") == SENTENCE + "\n"
    assert "[" in output
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    arguments_ = command("tag", "--model", tiny_artefact, "--threshold", 0.1)
    subprocess.run(
        arguments_, cwd=ROOT, env=environment(), input=SENTENCE.encode(), stdout=theirs, stderr=theirs,
        timeout=60, check=True,
    )  # fmt: skip
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        shown = b""
        while part := terminal.read(10_000):  # ends with an error: the other side is closed
            shown += part
    assert b"\x1b[1;36m" in shown
    assert b"tokens/s" in shown


# What is bad


def test_a_bad_file_is_reported_and_the_rest_is_done(tag, tmp_path):
    (tmp_path / "a.txt").write_text(SENTENCE)
    (tmp_path / "b.txt").write_bytes(b"Jane met\n\nAnn\xffZebedee")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(SENTENCE.encode() * 99)[:-20])
    (tmp_path / "d.txt.xz").write_bytes(b"not at all")
    (tmp_path / "e").mkdir()
    (tmp_path / "g.txt").write_text(SENTENCE)
    names = ["a.txt", "b.txt", "c.txt.gz", "d.txt.xz", "e", "f.txt", "g.txt"]
    output, errors = tag(*[tmp_path / name for name in names], code=1)
    assert {os.path.basename(each["file"]) for each in lines(output)} >= {"a.txt", "b.txt", "g.txt"}
    told = errors.splitlines()
    assert [os.path.basename(line.split(":")[1]) for line in told] == names[1:-1]
    assert "b.txt:3: byte 13 of the file is not UTF-8" in told[0]
    assert "holds no files that can be read: names that end in .txt, " in told[3]
    assert "No such file" in told[4]
    assert "Zebedee" not in errors


def test_a_thousand_bad_lines_do_not_fill_the_terminal(tag):
    _, errors = tag("--input", "jsonl", stdin=b"{\n" * 1000, code=1)
    assert len(errors.splitlines()) == 21
    assert "980 more" in errors


@pytest.mark.parametrize(
    "wrong",
    [
        ["tag", "--threshold", "2"],
        ["tag", "--model", "nope"],
        ["tag", "--workers", "0"],
        ["tag", "-", "-"],
        ["tag", "--out", "x"],
        ["tag", "a.csv"],
        ["redact"],
        ["redact", "--mode", "hash"],
        ["redact", "--mode", "pseudonym", "--out", "x", "a.txt"],
        ["tag", "--ray-address", "auto"],
        ["tag", "--tokens", "--format", "csv"],
        ["tag", "--tokens", "--format", "text"],
        ["tag", "--tokens", "--format", "conll"],
        ["models", "/nonexistent"],
        ["redact", "--mode", "mask", "a.parquet", "--column", "x"],
        ["serve", "--port", "x"],
        ["nope"],
        [],
    ],
    ids=" ".join,
)
def test_bad_arguments_are_a_2_and_a_line(wrong):
    output, errors = nametag(*wrong, code=2)
    assert not output
    assert errors


def test_a_broken_model_is_a_2_and_a_line(tmp_path, tiny_artefact, large):
    for file in tiny_artefact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" " * (file.name == "cased.txt"))
    for workers in (1, 2):
        _, errors = nametag("tag", large, "--model", tmp_path, "--workers", workers, code=2)
        assert "cased.txt" in errors


def test_who_reads_only_the_beginning_ends_it(tiny_artefact, large):
    with subprocess.Popen(
        command("tag", large, "--model", tiny_artefact, "--workers", 2), cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("n", [9, 3])
def test_the_processes_are_gone_with_the_last_result(n):
    """Else a thread of theirs ends while the interpreter does, which may write a traceback."""
    results = Engine(abs, operator.add, 1, 2).run(iter(range(9)))
    assert list(itertools.islice(results, n)) == list(range(1, n + 1))
    results.close()
    assert not multiprocessing.active_children()


def test_an_interrupt_ends_it_with_a_line(tiny_artefact, large):
    with subprocess.Popen(
        command("tag", large, "--model", tiny_artefact, "--workers", 2), cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"nametag: interrupted\n")


def test_what_is_started_without_interrupts_hears_none_from_its_first_line_on():
    said = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    with without_interrupts():
        assert subprocess.check_output([sys.executable, "-c", said]) == b"alive\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


# A folder of outputs


def outputs(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def files(large, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    small = folder / "small.jsonl"
    small.write_text(json.dumps({"text": SENTENCE}) + "\n{\n")
    packed = folder / "packed.txt.gz"
    packed.write_bytes(gzip.compress(large.read_bytes()[:600_000], mtime=0))
    return [small, large, packed]


def test_a_run_that_is_killed_again_and_again_writes_what_one_that_is_not_writes(
    tag, tiny_artefact, files, tmp_path
):
    tag(*files, "--out", tmp_path / "whole", code=1)
    expected = outputs(tmp_path / "whole")
    assert sorted(expected) == ["large.txt.jsonl", "manifest.json", "packed.txt.jsonl", "small.jsonl"]
    rng = random.Random(2)
    n_kills = 0
    out = tmp_path / "killed"
    arguments_ = command(
        "tag", *files, "--out", out, "--model", tiny_artefact, "--threshold", 0.1, "--workers", 1
    )
    while True:
        process = subprocess.Popen(arguments_, cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
        # As soon as there is one part more, and then at any moment.
        before = len(list(out.rglob("0*")))
        while process.poll() is None and len(list(out.rglob("0*"))) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
        n_kills += 1
        whole = {name: content for name, content in outputs(out).items() if name in expected}
        whole.pop("manifest.json", None)
        assert all(expected[name] == content for name, content in whole.items())
    assert process.returncode == 1  # the bad line is bad still
    assert n_kills > 1
    assert outputs(out) == expected


def test_parts_of_what_is_whole_go_where_a_run_was_killed_before_it_came_to_that(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE)
    out = tmp_path / "out"
    tag(path, "--out", out)
    before = outputs(out)
    left = out / "parts" / "a.txt.jsonl" / "000000"
    left.parent.mkdir(parents=True)
    left.write_text("left\n")
    tag(path, "--out", out)
    assert outputs(out) == before


def test_what_is_whole_is_not_done_again_and_what_has_changed_is(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE)
    out = tmp_path / "out"
    tag(path, "--out", out)
    first = (out / "a.txt.jsonl").stat().st_mtime_ns
    tag(path, "--out", out)
    assert (out / "a.txt.jsonl").stat().st_mtime_ns == first
    path.write_text(SENTENCE * 2)
    tag(path, "--out", out)
    assert lines((out / "a.txt.jsonl").read_text())[0]["end"] == 2 * len(SENTENCE)
    _, errors = tag(path, "--out", out, "--format", "conll", code=2)
    assert "another format" in errors


def test_an_output_never_takes_the_place_of_an_input_or_of_another(tag, tmp_path):
    for name in ("a.txt", "b/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SENTENCE)
    _, errors = tag(tmp_path / "a.txt", tmp_path / "b" / "a.txt", "--out", tmp_path / "out", code=2)
    assert "both would become" in errors
    mode = ("redact", "--mode", "mask")
    _, errors = nametag(*mode, tmp_path / "a.txt", "--out", tmp_path, code=2)
    assert "is an input, and an output too" in errors
    assert (tmp_path / "a.txt").read_text() == SENTENCE


def test_a_full_disk_is_a_line_and_the_same_command_goes_on(tag, tiny_artefact, large, tmp_path):
    """A limit on the size of a file is what any user may set; the error comes from the same place."""
    out = tmp_path / "out"
    arguments_ = command("tag", large, "--out", out, "--model", tiny_artefact, "--threshold", 0.1)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 200; exec "$@"', "-", *arguments_], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(rf"nametag: {out}/parts/\S+: File too large; .*\n", done.stderr)
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    tag(large, "--out", out)
    tag(large, "--out", tmp_path / "whole")
    assert outputs(out) == outputs(tmp_path / "whole")


def test_only_what_a_run_left_half_written_is_removed(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE)
    out = tmp_path / "out"
    theirs = [".env.2024", ".git/.x.7", "x/.1.nametag-part", "link/.1.nametag-part/y", ".venv-3.11/.z.8"]
    halves = [".1.nametag-part", "parts/a.txt.jsonl/.23.nametag-part"]
    for name in (*theirs, *halves):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("precious")
    tag(path, "--out", out)
    assert sorted(outputs(out)) == sorted([*theirs, "a.txt.jsonl", "manifest.json"])


def test_what_is_there_and_is_no_output_of_the_same_input_stays(tag, tiny_artefact, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.txt").write_text("precious")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"{SENTENCE}{folder}")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(SENTENCE.encode()))
    redact_ = ("redact", "--mode", "label", "--model", tiny_artefact, "--out", out)
    _, errors = nametag(*redact_, tmp_path / "a.txt.gz", code=2)
    assert f"{out / 'a.txt'}: is there already, and not of a run" in errors
    assert (out / "a.txt").read_text() == "precious"
    tag(tmp_path / "x" / "a.txt", "--out", out)
    first = outputs(out)
    _, errors = tag(tmp_path / "y" / "a.txt", "--out", out, code=2)
    assert (
        f"{out / 'a.txt.jsonl'}: is there already, and the output of {tmp_path / 'x' / 'a.txt'}" in errors
    )
    assert outputs(out) == first
    # An earlier release's manifest says less: what is finished is not done again all the same.
    manifest = json.loads(first["manifest.json"])
    del manifest["inputs"]["a.txt.jsonl"]["at"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    written = (out / "a.txt.jsonl").stat().st_mtime_ns
    tag(tmp_path / "x" / "a.txt", "--out", out)
    assert (out / "a.txt.jsonl").stat().st_mtime_ns == written
    assert outputs(out) == first


def test_a_file_url_is_no_way_around_that(tag, tiny_artefact, corpus):
    path = corpus / "a.txt"
    redact_ = ("redact", "--mode", "label", "--model", tiny_artefact, "--out", corpus)
    assert "is an input, and an output too" in nametag(*redact_, path.as_uri(), code=2)[1]
    assert path.read_text() == SENTENCE
    tag(corpus.as_uri(), "--out", corpus / "out", code=1)
    first = outputs(corpus / "out")
    tag(corpus.as_uri(), "--out", corpus / "out", code=1)
    assert outputs(corpus / "out") == first


def test_a_file_that_is_given_twice_is_done_once(tag, corpus, large, tmp_path):
    (corpus / "large.txt").write_bytes(large.read_bytes())
    tag(corpus, "--out", tmp_path / "once", code=1)
    given = (corpus, f"{corpus}/./a.txt", corpus / "large.txt", corpus.as_uri())
    tag(*given, "--out", tmp_path / "twice", code=1)
    assert outputs(tmp_path / "twice") == outputs(tmp_path / "once")


def test_the_output_of_what_was_there_before_does_not_stay_beside_a_failure(tag, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(SENTENCE)
    out = tmp_path / "out"
    tag(path, "--out", out)
    path.write_bytes(b"Ann\xff")
    tag(path, "--out", out, code=1)
    (manifest,) = json.loads(outputs(out)["manifest.json"])["inputs"].values()
    assert manifest["state"] == "failed"
    assert sorted(outputs(out)) == ["manifest.json"]


def test_whose_output_each_is_is_known_before_there_is_any_and_its_input_before_there_are_parts(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(SENTENCE)
    out = tmp_path / "out"
    both = places.inputs_of([str(tmp_path / name) for name in ("a.txt", "b.txt")], None, out)
    folder = Folder(out, {}, both, lambda _: ".jsonl")

    def known():
        return json.loads((out / "manifest.json").read_bytes())["inputs"]

    assert [entry["at"] for entry in known().values()] == [str(tmp_path / n) for n in ("a.txt", "b.txt")]
    for each in both:
        assert folder.begin(each)
    output = folder.output(both[1])
    for chunk in range(CHUNKS_PER_PART + 1):
        output.add(chunk, b"x\n")
    # As a run that is killed now leaves it.
    assert known()["b.txt.jsonl"].items() >= both[1].facts().items()
    folder.close()


def test_half_a_file_has_a_name_that_nobody_else_gives(tmp_path):
    seen = []

    def pieces():
        seen.extend(os.listdir(tmp_path))
        yield b"x"

    write_atomically(tmp_path / "a.txt", pieces())
    assert seen == [f".{os.getpid()}.nametag-part"]
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(CliError):
        write_atomically(tmp_path / "a.txt" / "b", pieces())


# Folders, URLs, Parquet


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "b" / ".hidden").mkdir(parents=True)
    (folder / "a.txt").write_text(SENTENCE)
    (folder / "b" / "a.jsonl").write_text(json.dumps({"text": SENTENCE, "id": "x"}) + "\n{\n")
    (folder / "b" / "c.txt.gz").write_bytes(gzip.compress(SENTENCE.encode(), mtime=0))
    for name in ("picture.png", ".hidden.txt", "b/.hidden/a.txt"):
        (folder / name).write_text(SENTENCE)
    return folder


def test_a_folder_is_the_files_below_it_each_with_its_output(tag, corpus):
    out = corpus / "out"
    tag(corpus, "--out", out, code=1)
    first = outputs(out)
    assert sorted(first) == ["a.txt.jsonl", "b/a.jsonl", "b/c.txt.jsonl", "manifest.json"]
    assert lines(first["b/c.txt.jsonl"])[0]["file"] == str(corpus / "b" / "c.txt.gz")
    assert "a.jsonl:2: is not JSON" in tag(corpus, code=1)[1]
    # What it wrote there itself is no input.
    tag(corpus, "--out", out, code=1)
    assert outputs(out) == first
    assert "parts" not in os.listdir(out)


def test_an_output_takes_no_name_that_the_run_needs_and_no_folder_of_another(tag, tmp_path):
    for name in ("manifest.json", "a.txt", "x/a.txt.jsonl/b.txt", "y/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SENTENCE)
    redact_ = ("redact", "--mode", "mask", "--out", tmp_path / "out")
    assert "kept for the run itself" in nametag(*redact_, tmp_path / "manifest.json", code=2)[1]
    _, errors = tag(tmp_path / "x", tmp_path / "y", "--out", tmp_path / "out", code=2)
    assert "would be a file and a folder" in errors


def test_a_url_is_read_as_a_file_is(tag, corpus, tmp_path):
    url = corpus.as_uri()
    tag(corpus, "--out", tmp_path / "of-files", code=1)
    tag(url, "--out", tmp_path / "of-urls", code=1)
    ours, theirs = outputs(tmp_path / "of-files"), outputs(tmp_path / "of-urls")
    del ours["manifest.json"], theirs["manifest.json"]
    assert {n: c.replace(url.encode(), str(corpus).encode()) for n, c in theirs.items()} == ours
    first = outputs(tmp_path / "of-urls")
    assert "1 bad lines, when it was done" in tag(url, "--out", tmp_path / "of-urls", code=1)[1]
    assert outputs(tmp_path / "of-urls") == first
    (found,) = lines(tag(f"{url}/a.txt")[0])
    assert found["persons"]
    assert "No such file" in tag(f"{url}/nope.txt", code=1)[1]
    assert "nope://" in tag("nope://a.txt", code=2)[1]


def test_parquet_in_is_as_json_lines_in(tag, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"id": 7, "body": SENTENCE}, {"id": 8, "body": None}, {"id": 9, "body": "Jane left ."}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    output, errors = tag(tmp_path / "a.parquet", "--column", "body", code=1)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected, _ = tag(tmp_path / "a.jsonl", "--field", "body", code=1)
    assert output == expected.replace("a.jsonl", "a.parquet")
    assert [each["line"] for each in lines(output)] == [1, 3]
    assert "a.parquet:2: 'body' is null" in errors
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing")
    assert "is not a Parquet file" in tag(tmp_path / "b.parquet", "--column", "x", code=1)[1]
    assert "its columns are id, body" in tag(tmp_path / "a.parquet", "--column", "x", code=1)[1]
    assert "--column" in tag(tmp_path / "a.parquet", code=2)[1]


def test_a_parquet_file_with_a_column_twice_is_reported_and_the_rest_is_done(tag, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = pyarrow.array([SENTENCE])
    for name, columns in {
        "a": ["body", "body"],
        "b": ["body", "id", "id"],
        "c": ["body", "x", "x"],
    }.items():
        table = pyarrow.Table.from_arrays([texts] * len(columns), names=columns)
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    output, errors = tag(tmp_path, "--column", "body", code=1)
    assert [os.path.basename(each["file"]) for each in lines(output)] == ["c.parquet"]
    assert "a.parquet: has 2 columns 'body': one is expected" in errors
    assert "b.parquet: has 2 columns 'id': one is expected" in errors


def test_a_url_of_a_store_is_read_through_fsspec():
    store = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("a.txt", "below/b.txt.gz", "picture.png"):
        store.pipe(f"/corpus/{name}", SENTENCE.encode())
    found = places.inputs_of(["memory://corpus"], None, None)
    assert [each.name for each in found] == ["memory://corpus/a.txt", "memory://corpus/below/b.txt.gz"]
    assert [each.place for each in found] == ["a.txt", "below/b.txt"]
    assert {each.size() for each in found} == {len(SENTENCE)}
    assert not any(each.is_stream for each in found)
    with found[0].open() as file:
        assert file.read() == SENTENCE.encode()


def test_parquet_out_holds_what_json_lines_hold(tag, files, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    tag(*files, "--out", tmp_path / "jsonl", code=1)
    tag(*files, "--out", tmp_path / "parquet", "--format", "parquet", code=1)
    names = {"small.jsonl": "small.jsonl.parquet", "large.txt.jsonl": "large.txt.parquet"}
    for ours, theirs in names.items():
        table = parquet.read_table(tmp_path / "parquet" / theirs)
        found = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
        assert found == lines((tmp_path / "jsonl" / ours).read_text("utf-8"))
    assert "--out is expected" in tag(files[0], "--format", "parquet", code=2)[1]


# Redaction


@pytest.mark.bundled
def test_a_text_is_redacted_and_every_other_character_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\n Harry Potter met\r\n\n\nHermione Granger. 🎉\n\n Mr. Potter's owl \n".encode())
    output, _ = nametag("redact", "--mode", "label", path)
    assert output == "\n [PERSON_1] met\r\n\n\n[PERSON_2]. 🎉\n\n Mr. [PERSON_1]'s owl \n".replace(
        "\r", "\r"
    )
    nametag("redact", "--mode", "label", path, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes().decode() == output


@pytest.mark.bundled
def test_of_a_csv_and_of_json_lines_all_else_stays(tmp_path):
    key = tmp_path / "key"
    key.write_text("nobody can guess it")
    (tmp_path / "a.jsonl").write_text('{"text": "Harry Potter left.", "by": "Ann", "id": 7}\n')
    (tmp_path / "a.tsv").write_text("n\tnote\n1\tHarry Potter left.\n")
    hash_ = ("redact", "--mode", "hash", "--key-file", key)
    (found,) = lines(nametag(*hash_, tmp_path / "a.jsonl")[0])
    mark = found["text"].split()[0]
    assert found == {"text": f"{mark} left.", "by": "Ann", "id": 7}
    output, _ = nametag(*hash_, tmp_path / "a.tsv", "--column", "note")
    assert output == f"n\tnote\n1\t{mark} left.\n"
    (entry,) = lines(nametag(*hash_, "--format", "jsonl", tmp_path / "a.jsonl")[0])
    assert entry["replacements"][0]["replacement"] == mark
    assert entry["id"] == 7


# The other commands


def test_models_are_listed_with_version_and_size(tiny_artefact):
    output, _ = nametag("models", "--json", tiny_artefact.parent)
    (tiny,) = (each for each in lines(output) if each["name"] == "tiny")
    assert (tiny["version"], tiny["folder"]) == ("1", str(tiny_artefact))
    assert tiny["bytes"] == sum(file.stat().st_size for file in tiny_artefact.iterdir())
    assert "tiny@1" in nametag("models", tiny_artefact)[0]


def test_serve_takes_its_settings_as_arguments(tiny_artefact):
    with subprocess.Popen(
        command("serve", "--model", tiny_artefact, "--port", 0), cwd=ROOT, env=environment(),
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        log = []
        for line in process.stderr:
            log.append(line)
            if '"listening"' in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert "tiny@1" in "".join(log)


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_train_and_evaluate_are_those_of_training(name):
    assert f"training {name}" in nametag(name, "--help")[0]
    assert nametag(name, "--nope", code=2)[1]


def test_help_reads_nothing_heavy():
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service.cli", "--help"],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "tag" in shown.stdout
    read = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert not read & {"numpy", "onnxruntime", "fastapi", "pydantic", "orjson", "tqdm", "model", "asyncio"}


def test_what_help_says_is_what_there_is():
    assert tuple(inputs.LENGTHS) == UNITS
    assert redact.MODES == MODES
    assert (ROOT / "artefacts" / arguments.DEFAULT_MODEL).is_dir()
