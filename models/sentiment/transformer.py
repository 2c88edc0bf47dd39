"""The fine-tuned transformer, served by ONNX Runtime on one core.

One text comes in at a time, a `Sentiment` goes out. With dynamic int8 the scale of the activations comes from all
that shares a batch, so there are no batches: a score depends on its text and nothing else, bit for bit, and a replay
agrees.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.sentiment.evaluation import probabilities
from models.sentiment.text import normalise

WEIGHTS: Final = Path(__file__).parent / "weights"
SHORT_CHARACTERS: Final = 280
SHORT_TOKENS: Final = 64
LONG_TOKENS: Final = 256
DIGITS: Final = 4
"""`score` and `confidence` are rounded to this many digits."""

Logits: TypeAlias = npt.NDArray[np.float32]


class WeightsError(Exception):
    """The model's files are missing, unreadable, or not those that meta.json describes."""


class Sentiment(msgspec.Struct, frozen=True):
    """What a scorer says about one text.

    `score` is p(positive) - p(negative), in -1..1; `confidence` the probability of `label`, the likeliest of
    negative, neutral and positive; `source` whose numbers these are ("transformer", "student") and `model` its version,
    also when they come from a cache; `level` that at which a cascade answered, None elsewhere.
    """

    score: float
    confidence: float
    label: str
    source: str
    model: str
    level: int | None = None


class Meta(msgspec.Struct, frozen=True):
    """What meta.json says that serving needs; it says more, for people."""

    labels: tuple[str, str, str]
    temperature: float
    version: str
    sha256: str


class Transformer:
    """Tokenizer and ONNX session. `score` may be called from several threads; calls do not share state."""

    def __init__(self, session: Any, tokenizer: Tokenizer, meta: Meta) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._meta = meta
        self.version = meta.version

    @classmethod
    def load(cls, folder: Path | None = None) -> "Transformer":
        """Open model.onnx, tokenizer.json and meta.json in `folder` (default: the weights that ship with nudge).

        Raises `WeightsError` when one is missing or unreadable, or when the model's SHA-256 is not the one in
        meta.json.
        """
        folder = folder or WEIGHTS
        try:
            meta = msgspec.json.decode((folder / "meta.json").read_bytes(), type=Meta)
            _verify(folder / "model.onnx", meta)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            session = open_session(folder / "model.onnx")
        except WeightsError:
            raise
        except Exception as error:  # tokenizers raises bare Exception, ONNX Runtime its own undocumented classes
            raise WeightsError(f"sentiment model in {folder} cannot be loaded: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(session, tokenizer, meta)

    def score(self, text: str) -> Sentiment:
        """Score any text; it is normalised first. An empty one is neutral with confidence 1 and is not run."""
        return self.score_normal(normalise(text))

    def score_normal(self, line: str) -> Sentiment:
        """Score a text that `normalise` made, with the same result as `score`."""
        if not line:
            return Sentiment(0.0, 1.0, "neutral", "transformer", self.version)
        logits = logits_of(self._session, token_ids(self._tokenizer, line))
        return sentiment(probabilities(logits, self._meta.temperature), self._meta.labels, "transformer", self.version)


def sentiment(probability: npt.NDArray[np.float64], labels: tuple[str, str, str], source: str, model: str) -> Sentiment:
    """Return the `Sentiment` of three probabilities, in the order negative, neutral, positive."""
    negative, _, positive = values = probability.tolist()
    confidence = max(values)
    return Sentiment(
        round(positive - negative, DIGITS), round(confidence, DIGITS), labels[values.index(confidence)], source, model
    )


def token_ids(tokenizer: Tokenizer, line: str) -> list[int]:
    """Return the token ids of a normalised text, `[CLS]` and `[SEP]` included, cut to its budget.

    A text of at most 280 characters has a budget of 64 tokens, a longer one 256. Of a text that exceeds it the first
    tokens are kept.
    """
    ids: list[int] = tokenizer.encode(line).ids
    budget = SHORT_TOKENS if len(line) <= SHORT_CHARACTERS else LONG_TOKENS
    return ids if len(ids) <= budget else [*ids[: budget - 1], ids[-1]]


def open_session(path: Path) -> Any:
    """Open an ONNX file for one thread with deterministic kernels."""
    # Imported here because it takes long, and told to keep what it knows to itself.
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits_of(session: Any, ids: list[int]) -> Logits:
    """Run one text; return its three logits, float32."""
    logits: Logits = session.run(None, {"input_ids": np.array(ids, dtype=np.int64)})[0]
    return logits


def _verify(path: Path, meta: Meta) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != meta.sha256:
        raise WeightsError(f"{path} is not the model that meta.json describes: SHA-256 {found}, expected {meta.sha256}")
    if meta.version != found[:12]:
        raise WeightsError(f"meta.json of {path}, version: found {meta.version}, expected {found[:12]}")
