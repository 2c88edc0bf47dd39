"""Make what ships of a trained network: weights/, report.json and README.md under one folder.

The int8 model is judged as it is served, one text at a time; the float network is judged beside it. Everything that
meta.json and the report say is measured here, nothing is filled in by hand.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from models.sentiment import export, network
from models.sentiment.card import card
from models.sentiment.corpus import Corpus, Labelled
from models.sentiment.evaluation import (
    LABELS,
    Floats,
    accuracy,
    calibration_error,
    fit_temperature,
    macro_recall,
    probabilities,
    without_neutral,
)
from models.sentiment.transformer import token_ids

LICENCE = (
    "Encoder: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0; the changes are under the same licence. Fine-tuned "
    "on public data sets of mixed terms, mostly meant for research, see README.md: whoever needs more than that trains "
    "on their own. No text of theirs is in the weights."
)
MAXIMUM_BYTES = 30_000_000
AGREEMENT_TEXTS = 500


def ship(classifier: network.Classifier, data: Corpus, recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    """Export, quantise, calibrate, judge; write `out`/weights, `out`/report.json, `out`/README.md; return the report.

    Raises `ValueError` when the weights come out larger than 30 MB.
    """
    weights = out / "weights"
    weights.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_tokenizer(weights / "tokenizer.json")
    with tempfile.TemporaryDirectory() as scratch:
        float_path = Path(scratch) / "float.onnx"
        export.export_onnx(classifier, float_path)
        export.quantise(float_path, weights / "model.onnx")
        agreement = _agreement(classifier, float_path, weights / "model.onnx", _rows(tokenizer, data.test))
    judges = _Judges(classifier, tokenizer, weights / "model.onnx")
    validation = {source: judges.logits(rows) for source, rows in _by_source(data.validation).items()}
    temperature = _temperature(validation, data.validation)
    digest = hashlib.sha256((weights / "model.onnx").read_bytes()).hexdigest()
    report = {
        "model": digest[:12],
        "recipe": recipe,
        "texts": data.counts(),
        "left_out": data.left_out,
        "temperature": temperature,
        "validation": _judge(data.validation, validation, temperature),
        "test": _judge(data.test, {s: judges.logits(r) for s, r in _by_source(data.test).items()}, temperature),
        "export": agreement,
    }
    meta = {
        "labels": LABELS,
        "temperature": temperature,
        "version": digest[:12],
        "sha256": digest,
        "sizes": {path.name: path.stat().st_size for path in sorted(weights.iterdir()) if path.name != "meta.json"},
        "recipe": recipe,
        "licence": LICENCE,
    }
    _write_json(weights / "meta.json", meta)
    _write_json(out / "report.json", report | {"sizes": meta["sizes"]})
    (out / "README.md").write_text(card(report | {"sizes": meta["sizes"]}))
    if (total := sum(path.stat().st_size for path in weights.iterdir())) > MAXIMUM_BYTES:
        raise ValueError(f"weights: found {total} bytes in {weights}, expected at most {MAXIMUM_BYTES}")
    return report


class _Judges:
    """The two scorers that are compared; `logits` gives scorer -> logits (texts, 3)."""

    def __init__(self, classifier: network.Classifier, tokenizer: Tokenizer, int8: Path) -> None:
        self._classifier, self._tokenizer, self._int8 = classifier, tokenizer, int8

    def logits(self, rows: list[Labelled]) -> dict[str, Floats]:
        ids = _rows(self._tokenizer, rows)
        return {
            "float": network.batched_logits(self._classifier, ids),
            "int8": export.onnx_logits(self._int8, ids),
        }


def _judge(rows: list[Labelled], logits: dict[str, dict[str, Floats]], temperature: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source, chosen in _by_source(rows).items():
        found[source] = {"texts": len(chosen), "two_class": chosen[0].two_class}
        labels = np.array([row.label for row in chosen])
        for scorer, values in logits[source].items():
            ruled = without_neutral(values) if chosen[0].two_class else values
            probability = probabilities(ruled, temperature)
            found[source][scorer] = {
                "accuracy": round(accuracy(probability, labels), 4),
                "macro_recall": round(macro_recall(probability, labels), 4),
                "calibration_error": round(calibration_error(probability, labels), 4),
                "accuracy_of_three": round(accuracy(probabilities(values), labels), 4),
            }
    return found


def _temperature(logits: dict[str, dict[str, Floats]], rows: list[Labelled]) -> float:
    """Fit on the sources with a neutral: elsewhere its probability has nothing to be right about."""
    chosen = {source: found for source, found in _by_source(rows).items() if not found[0].two_class}
    labels = np.array([row.label for found in chosen.values() for row in found])
    return fit_temperature(np.concatenate([logits[source]["int8"] for source in chosen]), labels)


def _agreement(classifier: network.Classifier, float_path: Path, int8: Path, rows: list[list[int]]) -> dict[str, Any]:
    """Compare torch, float ONNX and int8 ONNX on texts spread evenly over the test sets."""
    chosen = rows[:: max(1, len(rows) // AGREEMENT_TEXTS)][:AGREEMENT_TEXTS]
    torch_found, float_found = export.torch_logits(classifier, chosen), export.onnx_logits(float_path, chosen)
    int8_found = export.onnx_logits(int8, chosen)
    change = np.abs(probabilities(torch_found) - probabilities(int8_found)).max(axis=1)
    return {
        "texts": len(chosen),
        "torch": torch.__version__,
        "float_largest_logit_difference": float(f"{np.abs(torch_found - float_found).max():.2g}"),
        "int8_same_label": round(float((torch_found.argmax(1) == int8_found.argmax(1)).mean()), 4),
        "int8_mean_probability_difference": round(float(change.mean()), 4),
    }


def _rows(tokenizer: Tokenizer, rows: list[Labelled]) -> list[list[int]]:
    return [token_ids(tokenizer, row.text) for row in rows]


def _by_source(rows: list[Labelled]) -> dict[str, list[Labelled]]:
    return {source: [row for row in rows if row.source == source] for source in sorted({row.source for row in rows})}


def _write_tokenizer(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(network.pretrained_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(path), pretty=False)
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
