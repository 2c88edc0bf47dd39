"""The training data: labelled texts from a Parquet file, parted into train, validation and test.

`load` parts the English texts, for the transformer; `load_all` adds the other languages, for the student, which learns
from the same English texts and leaves out the same.

Nothing that is tested on is trained on: a training text goes when its letters equal those of a held-out text, or when
it shares eight words in a row with one (sentences of one review are spread over several of the public sets). The
split is a function of the file and the seed alone.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow.parquet as pq

from models.sentiment.evaluation import LABELS
from models.sentiment.text import normalise

SHINGLE_WORDS = 8

TWO_CLASS = frozenset({"sst2", "rt_polarity", "customer_reviews", "uci_amazon_cells", "uci_imdb", "uci_yelp"})
"""Sources whose annotators had no neutral to give: their neutral logit is masked in training."""

POSITIVE_LIMIT = {"amazon_mi": 1_500}
"""Five-star reviews outnumber all others nine to one in this source; a seeded sample of the positives is kept."""

TWEETS_FOR_VALIDATION = 400
SHARE_FOR_VALIDATION = {"customer_reviews": 0.1}

_TRAIN = {("sst2", "train"), ("rt_polarity", "all"), ("amazon_mi", "all"), ("customer_reviews", "all")} | {
    ("umsab", "train"),
    ("umsab", "val"),
    ("semeval16_rest", "train"),
    ("tweeteval", "val"),
}
_VALIDATION = {("sst2", "dev"), ("semeval16_rest", "dev")}
_TEST = {("sst2", "test"), ("tweeteval", "test"), ("umsab", "test"), ("semeval16_rest", "test")} | {
    ("uci_amazon_cells", "all"),
    ("uci_imdb", "all"),
    ("uci_yelp", "all"),
}

_TRAIN_OTHERS = {("umsab", "train"), ("semeval16_rest", "train"), ("sb10k", "all"), ("germeval2017", "dev")}
_VALIDATION_OTHERS = {("umsab", "val"), ("semeval16_rest", "dev")}
_TEST_OTHERS = {("umsab", "test"), ("semeval16_rest", "test")}

NO_TRAINING = frozenset({"it"})
"""The terms of the Italian sources do not let weights made of them be passed on; Italian is only tested on."""

Part = Literal["train", "validation", "test"]


class Labelled(msgspec.Struct, frozen=True):
    """One normalised text with the index of its label in `LABELS`."""

    source: str
    text: str
    label: int
    lang: str = "en"

    @property
    def two_class(self) -> bool:
        """Whether the source knows no neutral."""
        return self.source in TWO_CLASS


class Corpus(msgspec.Struct, frozen=True):
    """The three parts, and how many training texts of each source were left out because they leak or repeat."""

    train: list[Labelled]
    validation: list[Labelled]
    test: list[Labelled]
    left_out: dict[str, dict[str, int]]

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return part -> source -> label -> number of texts."""
        parts: dict[str, list[Labelled]] = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: _label_counts(rows) for name, rows in parts.items()}


def load(path: Path, seed: int) -> Corpus:
    """Read the Parquet file at `path` (columns source, lang, split, text, label) and part it.

    Raises `FileNotFoundError` when there is no such file.
    """
    shuffler = random.Random(seed)
    parts: dict[Part, list[Labelled]] = {"train": [], "validation": [], "test": []}
    rows = [(split, row) for split, row in _rows(path) if row.lang == "en" and row.text]
    shuffler.shuffle(rows)
    tweets = 0
    for split, row in rows:
        part = _part(row.source, split, shuffler)
        if part == "train" and row.source == "tweeteval":
            tweets += 1
            part = "validation" if tweets <= TWEETS_FOR_VALIDATION else "train"
        if part is not None:
            parts[part].append(row)
    return _apart(parts["train"], parts["validation"], parts["test"])


def load_all(path: Path, seed: int) -> Corpus:
    """Return what `load` does, and the texts of all other languages that may be learned from.

    A text in any language is left out of training when its letters equal those of a held-out text in any other.
    Raises `FileNotFoundError` when there is no such file.
    """
    english = load(path, seed)
    parts: dict[Part, list[Labelled]] = {"train": [], "validation": [], "test": []}
    for split, row in _rows(path):
        part = _part_of_other(row.source, split)
        if row.lang != "en" and row.text and part and (part == "test" or row.lang not in NO_TRAINING):
            parts[part].append(row)
    others = _apart(parts["train"], parts["validation"], parts["test"] + english.test + english.validation)
    left_out = {source: dict(english.left_out.get(source, {})) for source in english.left_out | others.left_out}
    for source, reasons in others.left_out.items():
        left_out[source] = dict(Counter(left_out[source]) + Counter(reasons))
    return Corpus(
        english.train + others.train,
        english.validation + others.validation,
        english.test + parts["test"],
        left_out,
    )


def _apart(train: list[Labelled], validation: list[Labelled], test: list[Labelled]) -> Corpus:
    """Take out of validation what is in test, and out of train what is in either."""
    kept = _unseen(validation, test, Counter())
    reasons: Counter[tuple[str, str]] = Counter()
    learned = _unseen(_without_surplus(train), test + kept, reasons)
    left_out: dict[str, dict[str, int]] = {}
    for (source, reason), count in sorted(reasons.items()):
        left_out.setdefault(source, {})[reason] = count
    return Corpus(learned, kept, test, left_out)


def letters(text: str) -> str:
    """Return the letters and digits of `text`, in small and without those with an accent: equal for two spellings.

    >>> letters("It 's a -LRB- caf\\u00e9 -RRB- !") == letters("it's a (caf\\u00e9)!")
    True
    """
    return re.sub(r"[^a-z0-9\u0370-\u1fff\u3040-\ud7ff]+", "", re.sub(r"-[lr]rb-|@user|\bhttp\b", "", text.lower()))


def _part(source: str, split: str, shuffler: random.Random) -> Part | None:
    if (source, split) in _TEST:
        return "test"
    if (source, split) in _VALIDATION or shuffler.random() < SHARE_FOR_VALIDATION.get(source, 0.0):
        return "validation"
    return "train" if (source, split) in _TRAIN else None


def _part_of_other(source: str, split: str) -> Part | None:
    if (source, split) in _TEST_OTHERS:
        return "test"
    if (source, split) in _VALIDATION_OTHERS:
        return "validation"
    return "train" if (source, split) in _TRAIN_OTHERS else None


def _rows(path: Path) -> Iterator[tuple[str, Labelled]]:
    for row in pq.read_table(path).to_pylist():
        text, label = normalise(row["text"]), LABELS.index(row["label"])
        yield row["split"], Labelled(row["source"], text, label, row["lang"])


def _without_surplus(rows: Iterable[Labelled]) -> Iterator[Labelled]:
    kept: Counter[str] = Counter()
    for row in rows:
        kept[row.source] += LABELS[row.label] == "positive"
        surplus = row.source in POSITIVE_LIMIT and kept[row.source] > POSITIVE_LIMIT[row.source]
        if not (surplus and LABELS[row.label] == "positive"):
            yield row


def _unseen(rows: Iterable[Labelled], held_out: list[Labelled], why: Counter[tuple[str, str]]) -> list[Labelled]:
    held_letters = {letters(row.text) for row in held_out}
    held_shingles = {shingle for row in held_out for shingle in _shingles(row.text)}
    seen: set[str] = set()
    kept = []
    for row in rows:
        key = letters(row.text)
        if key in held_letters or not held_shingles.isdisjoint(_shingles(row.text)):
            why[row.source, "leak"] += 1
        elif key in seen:
            why[row.source, "repeat"] += 1
        else:
            seen.add(key)
            kept.append(row)
    return kept


def _shingles(text: str) -> Iterator[int]:
    words = [word for word in (letters(word) for word in text.split()) if word]
    for start in range(len(words) - SHINGLE_WORDS + 1):
        yield hash(tuple(words[start : start + SHINGLE_WORDS]))


def _label_counts(rows: list[Labelled]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.source, Counter())[LABELS[row.label]] += 1
    return {source: dict(sorted(found.items())) for source, found in sorted(counts.items())}
