"""Sentiment: a score depends on its text alone, bad texts and bad weights cost no batch, and the export is faithful."""

import json
import random
import shutil
import subprocess
import sys
import threading
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sentiment import Sentiment, Student, Transformer, WeightsError, corpus
from models.sentiment.evaluation import (
    accuracy,
    calibration_error,
    fit_temperature,
    macro_recall,
    probabilities,
    without_neutral,
)
from models.sentiment.text import MAX_CHARACTERS, normalise
from models.sentiment.transformer import LONG_TOKENS, SHORT_TOKENS, WEIGHTS, token_ids

CLEAR = [
    ("I love this phone, the battery lasts for days!", "positive"),
    ("Absolutely wonderful service, will come back.", "positive"),
    ("Best purchase I have made this year.", "positive"),
    ("Terrible. It broke after one day and nobody answers.", "negative"),
    ("The food was cold and the waiter was rude.", "negative"),
    ("Worst customer support ever, I want my money back.", "negative"),
    ("This is not good at all.", "negative"),
    ("Not bad, I would buy it again!", "positive"),
]
ODD = {
    "empty": "",
    "blank": " \t\r\n ",
    "huge": "good " * 400_000,
    "one endless word": "a" * 1_000_000,
    "emoji": "😂😂😂 👩‍👩‍👧‍👦 ❤️ 🇩🇪",
    "right to left": "\u202e\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd\u202c",
    "control characters": "\x00\x01\x02good\x7f\x9f\u200b",
    "lone surrogates": "\ud800 bad \udfff",
    "combining marks": "z" + "\u0301" * 5_000,
    "html": "<script>alert('x')</script>&amp;&#0;",
    "special tokens": "[CLS] [SEP] [PAD] [MASK]",
}
TEXTS = [text for text, _ in CLEAR] + [
    "Delivered on Tuesday.",
    "@anna have a look at https://example.org/x?y=1",
    "so so, the screen is fine but the sound is awful",
    "Ok.",
    "The seat's colour is grey, its width 43 cm. " * 20,
]


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    return Transformer.load()


@pytest.fixture
def copied_weights(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS, tmp_path / "weights"))


# What a score depends on


def test_a_score_depends_on_its_text_alone(transformer: Transformer) -> None:
    # given each text scored alone, by a model that has seen nothing else
    alone = {text: Transformer.load().score(text) for text in TEXTS[::3]}
    # when they are scored amid others, in several orders, by one model
    for seed in range(3):
        shuffled = random.Random(seed).sample(TEXTS, len(TEXTS))
        found = {text: transformer.score(text) for text in shuffled}
        # then every field is equal to the bit
        assert {text: found[text] for text in alone} == alone


def test_threads_get_the_score_that_one_thread_gets(transformer: Transformer) -> None:
    expected = [transformer.score(text) for text in TEXTS]
    found: list[list[Sentiment]] = []
    threads = [
        threading.Thread(target=lambda: found.append([transformer.score(text) for text in TEXTS])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_another_process_gets_the_same_bits(transformer: Transformer) -> None:
    code = "import sys; from models.sentiment import Transformer; print(Transformer.load().score(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, TEXTS[0]], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(transformer.score(TEXTS[0]))


# What it says


@pytest.mark.parametrize(("text", "label"), CLEAR)
def test_clear_sentences_get_their_label(transformer: Transformer, text: str, label: str) -> None:
    scored = transformer.score(text)
    assert scored.label == label
    assert scored.score > 0.3 if label == "positive" else scored.score < -0.3


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_texts_get_a_score_in_range(transformer: Transformer, text: str) -> None:
    for scored in (transformer.score(text), Student.load().score(text)):
        assert -1.0 <= scored.score <= 1.0
        assert 0.3333 <= scored.confidence <= 1.0
        assert scored.label in ("negative", "neutral", "positive")


def test_an_empty_text_is_neutral_without_doubt(transformer: Transformer) -> None:
    assert transformer.score(" \u200b\n") == Sentiment(0.0, 1.0, "neutral", "transformer", transformer.version)


def test_short_texts_are_cut_at_64_tokens_and_long_ones_at_256(transformer: Transformer) -> None:
    tokenizer = transformer._tokenizer
    short, long = "a b " * 70, "a b " * 400
    assert len(token_ids(tokenizer, short)) == SHORT_TOKENS
    assert len(token_ids(tokenizer, long)) == LONG_TOKENS
    assert token_ids(tokenizer, long)[-1] == token_ids(tokenizer, "a")[-1], "the closing [SEP] is kept"
    assert len(token_ids(tokenizer, "a b")) == 4


# Normalisation


@given(st.text(max_size=300) | st.text("@http:/w.\u0301\u0591 a\n\u200d", max_size=40))
def test_a_normal_text_comes_back_unchanged(text: str) -> None:
    line = normalise(text)
    assert normalise(line) == line


@given(st.text(max_size=300))
def test_a_normal_text_is_one_clean_line(text: str) -> None:
    line = normalise(text)
    assert not any(unicodedata.category(c).startswith("C") for c in line)
    assert line == " ".join(line.split())
    assert unicodedata.is_normalized("NFC", line)


@given(st.text("abc", min_size=1), st.sampled_from(["http://", "https://", "HTTPS://", "www."]))
def test_links_and_names_do_not_survive(name: str, scheme: str) -> None:
    assert normalise(f"see {scheme}{name}.org/{name} by @{name}!") == "see http by @user!"


def test_normalisation_is_bounded() -> None:
    assert len(normalise("x" * 10_000_000)) == MAX_CHARACTERS
    assert normalise(" " * 10_000_000 + "late") == ""


def test_two_spellings_of_one_text_are_one_text() -> None:
    assert normalise("cafe\u0301  bon") == normalise("caf\u00e9\tbon")


# When the model is not there


def test_a_model_that_is_not_the_one_described_is_refused(copied_weights: Path) -> None:
    with (copied_weights / "model.onnx").open("ab") as model:
        model.write(b"\0")
    with pytest.raises(WeightsError, match="SHA-256"):
        Transformer.load(copied_weights)


def test_a_version_that_is_not_the_models_is_refused(copied_weights: Path) -> None:
    meta = json.loads((copied_weights / "meta.json").read_text())
    (copied_weights / "meta.json").write_text(json.dumps(meta | {"version": "v2"}))
    with pytest.raises(WeightsError, match="version: found v2"):
        Transformer.load(copied_weights)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "meta.json"])
def test_a_missing_file_is_a_weights_error(copied_weights: Path, name: str) -> None:
    (copied_weights / name).unlink()
    with pytest.raises(WeightsError):
        Transformer.load(copied_weights)


@pytest.mark.parametrize("name", ["tokenizer.json", "meta.json"])
def test_a_garbled_file_is_a_weights_error(copied_weights: Path, name: str) -> None:
    (copied_weights / name).write_bytes(b'{"labels": ')
    with pytest.raises(WeightsError):
        Transformer.load(copied_weights)


def test_a_file_that_is_no_model_is_a_weights_error_even_when_its_sha_agrees(copied_weights: Path) -> None:
    meta = json.loads((copied_weights / "meta.json").read_text())
    (copied_weights / "model.onnx").write_bytes(b"")
    meta["sha256"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    meta["version"] = meta["sha256"][:12]
    (copied_weights / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(WeightsError):
        Transformer.load(copied_weights)


# What ships


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= 30_000_000


def test_the_report_speaks_of_the_model_that_ships(transformer: Transformer) -> None:
    report = json.loads((WEIGHTS.parent / "report.json").read_text())
    assert report["model"] == transformer.version
    assert f"`{transformer.version}`" in (WEIGHTS.parent / "README.md").read_text()
    assert report["sizes"] == {path.name: path.stat().st_size for path in WEIGHTS.iterdir() if path.name != "meta.json"}


def test_the_model_that_ships_keeps_its_accuracy() -> None:
    test = json.loads((WEIGHTS.parent / "report.json").read_text())["test"]
    assert test["sst2"]["int8"]["accuracy"] >= 0.86
    assert test["tweeteval"]["int8"]["macro_recall"] >= 0.63


# Measures


def test_measures_of_a_known_table() -> None:
    probability = probabilities(np.log([[0.8, 0.1, 0.1], [0.175, 0.175, 0.65], [0.65, 0.175, 0.175]]))
    labels = np.array([0, 2, 2])
    assert accuracy(probability, labels) == pytest.approx(2 / 3)
    assert macro_recall(probability, labels) == pytest.approx(0.75)
    assert calibration_error(probability, labels) == pytest.approx((0.2 + 0.3) / 3)
    assert without_neutral([[0.0, 5.0, 1.0]]).argmax() == 2


def test_the_temperature_that_made_overconfident_logits_is_found_again() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(20_000, 3))
    labels = (generator.random((20_000, 1)) > probabilities(logits).cumsum(axis=1)).sum(axis=1)
    assert fit_temperature(logits * 2.0, labels) == pytest.approx(2.0, abs=0.1)


# What is trained on


def test_nothing_that_is_tested_on_is_trained_on(tmp_path: Path) -> None:
    # given training texts of which one is a test text in other spelling, one holds eight words of a test text in a
    # row, and one is a repeat; and a source that is only for tests
    tested = "the film 's charm is that it never once pretends to be deep"
    rows = [
        ("sst2", "en", "test", tested, "positive"),
        ("rt_polarity", "en", "all", "The film's charm is that it never once pretends to be deep!", "positive"),
        ("rt_polarity", "en", "all", "critics said: charm is that it never once pretends to be funny", "negative"),
        ("sst2", "en", "train", "a waste of two hours", "negative"),
        ("rt_polarity", "en", "all", "A waste of two hours .", "negative"),
        ("uci_yelp", "en", "all", "Crust is not good.", "negative"),
        ("umsab", "fr", "train", "Très bon", "positive"),
    ]
    names = ("source", "lang", "split", "text", "label")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    pq.write_table(table, tmp_path / "texts.parquet")
    # when the corpus is parted
    found = corpus.load(tmp_path / "texts.parquet", seed=1)
    # then one text is left to train on
    assert [corpus.letters(row.text) for row in found.train] == ["awasteoftwohours"]
    assert {row.source for row in found.test} == {"sst2", "uci_yelp"}
    assert found.left_out["rt_polarity"]["leak"] == 2
    assert sum(reasons.get("repeat", 0) for reasons in found.left_out.values()) == 1


# The way from torch to what ships


@pytest.mark.transformers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("torch") is None or find_spec("transformers") is None, reason="torch is not installed")
def test_the_exported_network_says_what_torch_says(tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel

    from models.sentiment import export, network

    # given a tiny random BERT with the head that train.py puts on it
    torch.manual_seed(5)
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    classifier = network.Classifier(BertModel(config, add_pooling_layer=False))
    with torch.no_grad():
        classifier.head.weight.mul_(20)
    # when it is exported and quantised as train.py does
    export.export_onnx(classifier, tmp_path / "float.onnx")
    export.quantise(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    # then texts of any length get the same logits
    generator = np.random.default_rng(5)
    rows = [generator.integers(0, 100, length).tolist() for length in (1, 2, 7, 8, 33, 64, 256, *range(10, 60))]
    expected = export.torch_logits(classifier, rows)
    np.testing.assert_allclose(export.onnx_logits(tmp_path / "float.onnx", rows), expected, atol=1e-5)
    np.testing.assert_allclose(network.batched_logits(classifier, rows), expected, atol=1e-5)
    # and the int8 ones are near, next to how far texts differ
    found = export.onnx_logits(tmp_path / "int8.onnx", rows)
    assert np.abs(found - expected).mean() < 0.1 * expected.std(axis=0).mean()
