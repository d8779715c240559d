import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.artefact import MANIFEST, Artefact, ArtefactError, Table, load, save
from model.config import TaggerConfig
from tests.conftest import random_artefact
from tests.strategies import thorough

FILES = (
    "config.json", "cased.txt", "lower.txt", "chars.json", "weights.safetensors", "word_types.onnx",
    "sentences.onnx", "expected.json", "MODEL_CARD.md", MANIFEST,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, tiny_artefact):
    """A copy, to be spoilt."""
    return Path(shutil.copytree(tiny_artefact, tmp_path / "tiny"))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def rewrite(folder, name, data):
    """Changes a file and signs it, as somebody would who wants it to load."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest[name] = hashlib.sha256(data).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def change_config(folder, change):
    config = json.loads((folder / "config.json").read_bytes())
    change(config)
    rewrite(folder, "config.json", json.dumps(config).encode())


def assert_same(a: Artefact, b: Artefact):
    assert (a.config, a.vocabulary, a.graphs, a.expected, a.training, a.card) == (
        b.config, b.vocabulary, b.graphs, b.expected, b.training, b.card,
    )  # fmt: skip
    assert a.weights.keys() == b.weights.keys()
    assert a.tables.keys() == b.tables.keys()
    for name, value in a.weights.items():
        assert value.dtype == b.weights[name].dtype
        np.testing.assert_array_equal(value, b.weights[name])
    for name, table in a.tables.items():
        np.testing.assert_array_equal(table.rows, b.tables[name].rows)
        np.testing.assert_array_equal(table.scales, b.tables[name].scales)


# Saving


@pytest.mark.parametrize(
    "shape",
    [{}, {"lower_dim": 0}, {"cased_dim": 0}, {"cell": "lstm-peephole", "n_layers": 2, "head": "softmax"}],
    ids=str,
)
def test_what_is_saved_is_loaded(tmp_path, shape):
    made = replace(
        random_artefact(**shape), training={"dev": {"f1": 0.5}, "seed": 3}, card="# Ünïcode\r\n\n🎉"
    )
    config = replace(made.config, temperature=1.25, threshold=0.5, languages=("en", "de"), version="1.2")
    made = replace(made, config=config)
    save(made, tmp_path / "x")
    assert_same(load(tmp_path / "x"), made)


def test_a_model_folder_holds_these_files_and_nothing_else_is_left(tmp_path):
    save(random_artefact(), tmp_path / "deep" / "er" / "tiny")
    assert sorted(contents(tmp_path / "deep" / "er" / "tiny")) == sorted(FILES)
    assert [p.name for p in (tmp_path / "deep" / "er").iterdir()] == ["tiny"]


def test_every_reader_may_open_a_saved_folder(tmp_path):
    save(random_artefact(), tmp_path / "tiny")
    assert (tmp_path / "tiny").stat().st_mode & 0o777 == 0o755


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in "ab":
        save(random_artefact(), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_saving_over_an_old_folder_replaces_all_of_it(folder):
    (folder / "stray").write_text("left from before")
    save(random_artefact(seed=1), folder)
    assert_same(load(folder), random_artefact(seed=1))
    assert not (folder / "stray").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("where", ["write", "set aside", "put in place"])
def test_a_save_that_fails_leaves_the_old_folder_and_nothing_else(folder, monkeypatch, where):
    before = contents(folder)
    rename, renames = Path.rename, []

    def failing_rename(self, target):
        renames.append(target)
        if len(renames) == (1 if where == "set aside" else 2):
            raise OSError("disk on fire")
        return rename(self, target)

    def failing_fsync(_):
        renames.append(None)
        if len(renames) == 4:
            raise OSError("disk on fire")

    if where == "write":
        monkeypatch.setattr("os.fsync", failing_fsync)
    else:
        monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(OSError, match="disk on fire"):
        save(random_artefact(seed=1), folder)
    assert contents(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert load(folder).config.name == "tiny"


def test_no_file_holds_a_pickle(folder):
    for name, data in contents(folder).items():
        assert not data.startswith((b"\x80", b"PK")), name  # pickle's protocol mark; torch.save's zip
        if name.endswith((".json", ".txt", ".md")):
            data.decode()


# Verifying


@pytest.mark.parametrize("name", [n for n in FILES if n != MANIFEST])
def test_one_changed_byte_is_found_and_the_file_named(folder, name):
    data = (folder / name).read_bytes() or b" "
    if name == "MODEL_CARD.md":
        assert not (folder / name).read_bytes()  # empty here: a byte more is a change too
    for at in {0, len(data) // 2, len(data) - 1}:
        changed = bytearray(data)
        changed[at] ^= 1
        (folder / name).write_bytes(changed)
        with pytest.raises(ArtefactError, match=rf"tiny/{name}: sha256 is .* the file has changed"):
            load(folder)


def test_one_changed_byte_of_the_manifest_is_found(folder):
    data = (folder / MANIFEST).read_bytes()
    for at in range(0, len(data) - 1, 7):
        changed = bytearray(data)
        changed[at] ^= 1
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises(ArtefactError, match="tiny/"):
            load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        load(folder)


def test_a_truncated_file_is_found_whatever_is_left_of_it(folder):
    for name in FILES:
        data = (folder / name).read_bytes()
        for kept in {0, 1, len(data) // 2, len(data) - 2} - {len(data)}:
            if kept < len(data) and kept >= 0:
                (folder / name).write_bytes(data[:kept])
                with pytest.raises(ArtefactError, match=name):
                    load(folder)
        (folder / name).write_bytes(data)
    load(folder)


@pytest.mark.parametrize(
    "name", [n for n in FILES if n not in (MANIFEST, "word_types.onnx", "sentences.onnx")]
)
def test_a_file_that_the_manifest_does_not_list_is_missing(folder, name):
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest[name]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=rf"{MANIFEST}: '{name}' is missing"):
        load(folder)


def test_what_is_no_model_folder_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ArtefactError, match="nowhere: no such model folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match=r"holds no manifest\.json"):
        load(tmp_path)
    (tmp_path / "a file").write_text("")
    with pytest.raises(ArtefactError, match="a file: no such model folder"):
        load(tmp_path / "a file")


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "3",
        "null",
        "[1",
        '{"a": 1}',
        '{"config.json": null}',
        '"config.json"',
        "\ud800",
        "[" * 9999,
    ],
    ids=lambda manifest: ascii(manifest[:12]),
)
def test_a_manifest_that_is_none_is_an_error(folder, manifest):
    (folder / MANIFEST).write_bytes(manifest.encode("utf-8", "surrogatepass"))
    with pytest.raises(ArtefactError, match="tiny/"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../secret",
        "x\x00y",
        "\ud800",
        "n" * 5000,
        "..\\secret",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_a_manifest_reaches_no_file_outside_its_folder(folder, name):
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest[name] = hashlib.sha256(b"secret").hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError):
        load(folder)


# Reading what is intact, and wrong all the same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "format 2, expected 1"),
        (lambda c: c.pop("format"), "format None, expected 1"),
        (lambda c: c.pop("tagger"), "'tagger' is missing"),
        (lambda c: c.pop("training"), "'training' is missing"),
        (lambda c: c["tagger"].update(tokeniser="treebank-9"), r"tokeniser 'treebank-9' is not one of"),
        (lambda c: c["tagger"].update(normalisation="x"), r"normalisation 'x' is not one of"),
        (lambda c: c["tagger"].update(colour="red"), "colour"),
        (lambda c: c["tagger"].pop("name"), "name"),
        (lambda c: c["tagger"].update(temperature=0), "temperature is 0"),
        (lambda c: c["tagger"].update(threshold=1.5), r"threshold is 1\.5"),
        (lambda c: c["tagger"]["network"].update(cell="qrnn"), "cell 'qrnn' is not one of"),
        (lambda c: c["tagger"]["network"].update(hidden_dim="6"), "not a tagger configuration"),
        (lambda c: c.update(tagger=[1]), ""),
        (lambda c: c["tagger"].update(network=None), "not a tagger configuration"),
    ],
)
def test_a_configuration_that_is_not_ours_is_an_error_that_says_what(folder, change, message):
    change_config(folder, change)
    with pytest.raises(ArtefactError, match=rf"config\.json: .*{message}"):
        load(folder)


@pytest.mark.parametrize(
    "name", [n for n in FILES if n.endswith((".json", ".safetensors")) and n != MANIFEST]
)
@pytest.mark.parametrize("data", [b"", b"3", b"{", b"\xff\xfe", b"[" * 9999], ids=lambda d: ascii(d[:4]))
def test_a_signed_file_that_is_nonsense_is_named(folder, name, data):
    if name == "expected.json" and data == b"3":
        return  # any JSON is read; Tagger.self_test judges it
    rewrite(folder, name, data)
    with pytest.raises(ArtefactError, match=rf"tiny/{name}: "):
        load(folder)


@pytest.mark.parametrize("name", ["cased.txt", "lower.txt", "MODEL_CARD.md"])
def test_a_signed_text_that_is_not_utf8_is_named(folder, name):
    rewrite(folder, name, b"\xff\xfe\n")
    with pytest.raises(ArtefactError, match=rf"tiny/{name}: "):
        load(folder)


def test_a_vocabulary_that_does_not_fit_its_table_is_an_error(folder):
    rewrite(folder, "cased.txt", (folder / "cased.txt").read_bytes() + b"more\n")
    with pytest.raises(ArtefactError, match=r"cased\.txt has 16 words for a width of 5, .* \(15, 5\)"):
        load(folder)


def test_a_chain_of_another_number_of_labels_is_an_error(folder):
    change_config(folder, lambda c: c["tagger"].update(entity_types=["PER", "ORG"]))
    with pytest.raises(
        ArtefactError, match=r"weights\.safetensors: the shape of 'start' is \(3,\), expected \(5,\)"
    ):
        load(folder)


def test_a_word_with_an_odd_line_break_stays_one_word(tmp_path):
    made = random_artefact()
    words = ("a\u2028b", "a\rb", "a\x0bb", "a\x85b")
    cased = (*made.vocabulary.cased[:-4], *words)
    save(replace(made, vocabulary=replace(made.vocabulary, cased=cased)), tmp_path / "x")
    assert load(tmp_path / "x").vocabulary.cased == cased


def test_a_configuration_survives_json():
    config = TaggerConfig(name="x", entity_types=("PER", "ORG"), temperature=1.5, threshold=0.25)
    assert TaggerConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


# Tables


@thorough
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 5), st.integers(1, 6)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True),
    )
)
def test_a_table_is_off_by_half_a_step_at_most(values):
    table = Table.of(values)
    assert (table.rows.dtype, table.scales.dtype) == (np.int8, np.float32)
    assert table.rows.shape == values.shape
    steps = np.abs(values).max(1, keepdims=True).astype(np.float64) / 127
    error = np.abs(table.look_up(np.arange(len(values))).astype(np.float64) - values)
    smallest = 2.0**-149  # of a float32 above 0; there a scale is rounded by as much as itself
    assert (error <= 0.5001 * steps + 127 * smallest).all()


def test_a_row_of_subnormal_numbers_keeps_its_signs():
    values = np.array([[2e-43, -2e-43, 0]], dtype=np.float32)
    assert np.sign(Table.of(values).rows).tolist() == [[1, -1, 0]]


def test_a_row_of_zeros_stays_zero():
    assert not Table.of(np.zeros((2, 3), np.float32)).look_up(np.array([0, 1])).any()
