"""Train the student, and write what ships: `python -m models.sentiment.student_train`.

Labelled texts of all languages come in (see `corpus.load_all`), the folder of weights and a report go out. The loss is
convex and descended from zero with every text at each step, so the seed only says which English texts are held out.
"""

import argparse
import hashlib
import json
import os
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp  # type: ignore[import-untyped]
from scipy.optimize import minimize  # type: ignore[import-untyped]

from models.sentiment import corpus
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
from models.sentiment.ngrams import BLOCK, BUCKETS, extract
from models.sentiment.student import DESCRIPTION, MODEL, Student, StudentMeta
from models.sentiment.student_card import card
from models.sentiment.transformer import DIGITS

SEED: Final = 17
PENALTY: Final = 1.0
ROUNDS: Final = 40
RARITY: Final = 3.0
"""Exponent of the inverse document frequency: rare n-grams count more, for the penalty as for the length."""

WORDS: Final = 1.5
"""Weight of word n-grams beside character n-grams."""

SHARES: Final = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Share of the English validation texts, of sources with a neutral, that the transformer answers at each level."""

ALWAYS: Final = 1.01
"""More than any confidence."""

AT_ONCE: Final = 1_000
LICENCE: Final = (
    "Made of public data sets of mixed terms, mostly meant for research, see report.json: whoever needs more than "
    "that trains on their own. It holds sums over hashes, no text."
)
Matrix: TypeAlias = Any
"""A sparse matrix of SciPy, which has no types."""


class Quantised(NamedTuple):
    """Weights (BUCKETS, 3) int8, lengths (BUCKETS,) uint16, and the scale that gives logits back."""

    weights: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.uint16]
    scale: float


def main() -> None:
    """Read the command line, train, ship."""
    arguments = _arguments()
    data = corpus.load_all(arguments.data / "sentiment" / "texts.parquet", arguments.seed)
    report = ship(train(data), data, arguments.seed, arguments.out)
    print(json.dumps(report["validation"]))


def train(data: Corpus) -> tuple[Quantised, Floats]:
    """Return quantised weights and biases (3,), temperature not yet in them."""
    presence = design([row.text for row in data.train])
    strength = _strength(presence)
    weights, bias = descend(_scaled(presence, strength), data.train)
    return quantise(weights, strength), bias


def design(lines: list[str]) -> Matrix:
    """Return a sparse matrix (texts, BUCKETS) with 1 where a text has the n-gram."""
    parts = []
    for start in range(0, len(lines), AT_ONCE):
        grams = extract(lines[start : start + AT_ONCE])
        ends = np.append(grams.starts, len(grams.buckets))
        ones = np.ones(len(grams.buckets), dtype=np.float32)
        parts.append(sp.csr_matrix((ones, grams.buckets, ends), shape=(len(grams.starts), BUCKETS)))
    return sp.vstack(parts).tocsr()


def _strength(presence: Matrix) -> npt.NDArray[np.float32]:
    """Return what one n-gram weighs (BUCKETS,): its rarity, 0 for one that a single text or none has."""
    texts = np.asarray(presence.sum(axis=0)).ravel()
    rarity = (np.log((1 + presence.shape[0]) / (1 + texts)) + 1) ** RARITY
    kind = np.where(np.arange(BUCKETS) < BLOCK, 1.0, WORDS)
    return np.where(texts > 1, rarity * kind, 0.0).astype(np.float32)


def _scaled(presence: Matrix, strength: npt.NDArray[np.float32]) -> Matrix:
    scaled = presence @ sp.diags(strength)
    lengths = np.sqrt(np.asarray(scaled.multiply(scaled).sum(axis=1)).ravel())
    return (sp.diags((1 / np.maximum(lengths, 1e-6)).astype(np.float32)) @ scaled).tocsr()


def example_weights(rows: list[Labelled]) -> Floats:
    """Return weights (texts,) that make the labels of each source and language equally heavy.

    What share of a source is neutral says who collected it, not what the next text will be.
    """
    labels = Counter((row.source, row.lang, row.label) for row in rows)
    texts = Counter((row.source, row.lang) for row in rows)
    kinds = Counter((source, lang) for source, lang, _ in labels)
    return np.array(
        [
            texts[row.source, row.lang] / kinds[row.source, row.lang] / labels[row.source, row.lang, row.label]
            for row in rows
        ]
    )


def descend(features: Matrix, rows: list[Labelled]) -> tuple[Floats, Floats]:
    """Return weights (BUCKETS, 3) and biases (3,) by L-BFGS (Liu and Nocedal 1989), neutral masked where unknown."""
    used = np.flatnonzero(np.asarray(features.getnnz(axis=0)))
    features = features[:, used]
    transposed = features.T.tocsr()
    truth = np.eye(3)[[row.label for row in rows]]
    mask = np.array([[0.0, -1e4 if row.two_class else 0.0, 0.0] for row in rows])
    heavy = example_weights(rows)[:, None]

    def loss(point: Floats) -> tuple[float, Floats]:
        weights, bias = point[:-3].reshape(-1, 3), point[-3:]
        probability = probabilities(features @ weights.astype(np.float32) + bias + mask)
        value = -(heavy * truth * np.log(np.maximum(probability, 1e-12))).sum() + PENALTY / 2 * (weights**2).sum()
        error = heavy * (probability - truth)
        gradient = (transposed @ error.astype(np.float32)).astype(np.float64) + PENALTY * weights
        return float(value), np.append(gradient.ravel(), error.sum(axis=0))

    options = {"maxiter": ROUNDS, "maxcor": 5}
    point = minimize(loss, np.zeros(3 * len(used) + 3), jac=True, method="L-BFGS-B", options=options).x
    weights = np.zeros((BUCKETS, 3))
    weights[used] = point[:-3].reshape(-1, 3)
    return weights, point[-3:]


def quantise(weights: Floats, strength: npt.NDArray[np.float32]) -> Quantised:
    """Return whole numbers for weights times strength, the largest thousandth clipped, and for strength squared."""
    heavy = weights * strength[:, None]
    step = float(np.quantile(np.abs(heavy[strength > 0]).max(axis=1), 0.999)) / 127
    square = float((strength**2).max()) / 65_535
    whole = np.clip(np.round(heavy / step), -127, 127).astype(np.int8)
    return Quantised(whole, np.round(strength**2 / square).astype(np.uint16), step / float(np.sqrt(square)))


def ship(trained: tuple[Quantised, Floats], data: Corpus, seed: int, out: Path) -> dict[str, Any]:
    """Calibrate, judge on validation texts, write what ships and its report and card to `out`; return the report."""
    out.mkdir(parents=True, exist_ok=True)
    quantised, bias = trained
    content = BytesIO()
    np.savez_compressed(content, weights=quantised.weights, lengths=quantised.lengths)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    (out / MODEL).write_bytes(content.getvalue())
    logits = build(quantised, bias, 1.0, digest).logits([row.text for row in data.validation])
    temperature = _temperature(np.array(logits), data.validation)
    judged = build(quantised, bias, temperature, digest)
    meta = msgspec.structs.replace(_meta(quantised, bias, temperature, digest), thresholds=_thresholds(judged, data))
    report = {
        "model": judged.version,
        "recipe": {"seed": seed, "penalty": PENALTY, "rounds": ROUNDS, "rarity": RARITY, "words": WORDS},
        "texts": {name: _counts(rows) for name, rows in (("train", data.train), ("validation", data.validation))},
        "left_out": data.left_out,
        "temperature": temperature,
        "thresholds": meta.thresholds,
        "validation": judge(judged, data.validation),
        "bytes": len(content.getvalue()),
    }
    described = {name: getattr(meta, name) for name in meta.__struct_fields__}
    _write_json(out / DESCRIPTION, described | {"temperature": temperature, "licence": LICENCE})
    _write_json(out / "report.json", report)
    (out / "README.md").write_text(card(report))
    return report


def build(quantised: Quantised, bias: Floats, temperature: float, digest: str) -> Student:
    """Return the student that answers with these weights."""
    return Student(quantised.weights, quantised.lengths, _meta(quantised, bias, temperature, digest))


def judge(student: Student, rows: list[Labelled]) -> dict[str, dict[str, float]]:
    """Return "source lang" -> measures, neutral ruled out where a source has none."""
    logits = np.array(student.logits([row.text for row in rows]))
    names = np.array([f"{row.source} {row.lang}" for row in rows])
    labels = np.array([row.label for row in rows])
    found = {}
    for name in sorted(set(names.tolist())):
        chosen = names == name
        ruled = without_neutral(logits[chosen]) if name.split()[0] in corpus.TWO_CLASS else logits[chosen]
        probability = probabilities(ruled)
        found[name] = {
            "texts": int(chosen.sum()),
            "accuracy": round(accuracy(probability, labels[chosen]), 4),
            "macro_recall": round(macro_recall(probability, labels[chosen]), 4),
            "ece": round(calibration_error(probability, labels[chosen]), 4),
        }
    return found


def _temperature(logits: Floats, rows: list[Labelled]) -> float:
    """Fit on the sources with a neutral: elsewhere its probability has nothing to be right about."""
    chosen = np.array([not row.two_class for row in rows])
    return fit_temperature(logits[chosen], np.array([row.label for row in rows])[chosen])


def _meta(quantised: Quantised, bias: Floats, temperature: float, digest: str) -> StudentMeta:
    negative, neutral, positive = (float(value) / temperature for value in bias)
    labels = (LABELS[0], LABELS[1], LABELS[2])
    scale = quantised.scale / temperature
    return StudentMeta(labels, (negative, neutral, positive), scale, (0.0,) * 5, digest[:12], digest)


def _thresholds(student: Student, data: Corpus) -> tuple[float, float, float, float, float]:
    """Return the confidences below which lie `SHARES` of the English validation texts."""
    lines = [row.text for row in data.validation if row.lang == "en" and not row.two_class]
    confidences = [scored.confidence for scored in student.score_normal(lines)] or [0.0]
    found = [float(np.quantile(confidences, share)) for share in SHARES[1:-1]]
    return ALWAYS, round(found[0], DIGITS), round(found[1], DIGITS), round(found[2], DIGITS), 0.0


def _counts(rows: list[Labelled]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(f"{row.source} {row.lang}", Counter())[LABELS[row.label]] += 1
    return {name: dict(sorted(found.items())) for name, found in sorted(counts.items())}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("NUDGE_DATA")
    parser.add_argument("--data", type=Path, default=folder, required=folder is None, help="default: $NUDGE_DATA")
    parser.add_argument("--out", type=Path, required=True, help="gets student.npz, meta.json, report.json, README.md")
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args()


if __name__ == "__main__":
    main()
