"""From a trained network to the file that is served: a graph for one text, in evaluation mode, then int8 weights.

The graph takes the token ids of a single text of any length. That leaves out the padding, the mask and the arithmetic
of shapes, about a third of the time, and makes it impossible that texts which share a batch change each other's score.
Weights are quantised per channel (one scale a tensor costs several points of accuracy), activations when they arrive.
"""

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn
from torch.nn import functional

from models.sentiment.network import Classifier

OPSET = 17


class OneText(nn.Module):  # type: ignore[misc]
    """The same function as a `Classifier`, for one text: `input_ids` (tokens,) int64 to `logits` (3,).

    Queries, keys and values of a layer come from one product, with the attention's scale already in the queries.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        encoder = classifier.encoder
        embeddings = encoder.embeddings
        self.heads = encoder.config.num_attention_heads
        self.width = encoder.config.hidden_size
        self.words = embeddings.word_embeddings
        self.positions = nn.Parameter(
            embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0], requires_grad=False
        )
        self.norm = embeddings.LayerNorm
        self.layers = nn.ModuleList(_Layer(layer, self.heads) for layer in encoder.encoder.layer)
        self.head = _Product(classifier.head.weight, classifier.head.bias)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return logits (3,)."""
        hidden = self.norm(self.words(input_ids) + self.positions[: input_ids.shape[0]])
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden.mean(0, keepdim=True))[0]


class _Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, layer: nn.Module, heads: int) -> None:
        super().__init__()
        attention = layer.attention
        parts = [attention.self.query, attention.self.key, attention.self.value]
        self.width = parts[0].out_features
        self.heads = heads
        scales = [1 / math.sqrt(self.width // heads), 1.0, 1.0]
        self.project = _Product(
            torch.cat([part.weight * scale for part, scale in zip(parts, scales, strict=True)]),
            torch.cat([part.bias * scale for part, scale in zip(parts, scales, strict=True)]),
        )
        self.attended = _Product(attention.output.dense.weight, attention.output.dense.bias)
        self.first_norm = attention.output.LayerNorm
        self.widen = _Product(layer.intermediate.dense.weight, layer.intermediate.dense.bias)
        self.narrow = _Product(layer.output.dense.weight, layer.output.dense.bias)
        self.second_norm = layer.output.LayerNorm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Take and return (tokens, width)."""
        by_head = self.project(hidden).view(-1, 3 * self.heads, self.width // self.heads).transpose(0, 1)
        query, key, value = by_head.split(self.heads)
        mixed = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        hidden = self.first_norm(self.attended(mixed.transpose(0, 1).reshape(-1, self.width)) + hidden)
        return self.second_norm(self.narrow(functional.gelu(self.widen(hidden))) + hidden)


class _Product(nn.Module):  # type: ignore[misc]
    """A linear layer that exports as MatMul and Add, which quantise, and not as Gemm, which does not."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows @ weight + bias."""
        return torch.matmul(rows, self.weight) + self.bias


def export_onnx(classifier: Classifier, path: Path) -> None:
    """Write `classifier` to `path` as float32 ONNX: `input_ids` (tokens,) to `logits` (3,), any number of tokens."""
    with torch.no_grad():
        torch.onnx.export(
            OneText(classifier).eval().float(),
            (torch.ones(8, dtype=torch.int64),),
            str(path),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {0: "tokens"}},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(path))


def quantise(float_path: Path, int8_path: Path) -> None:
    """Write the int8 form of the model at `float_path`: signed weights, one scale per output channel."""
    quantize_dynamic(float_path, int8_path, per_channel=True, reduce_range=False, weight_type=QuantType.QInt8)


def torch_logits(network: nn.Module, rows: list[list[int]]) -> np.ndarray:
    """Return the network's logits (texts, 3) for token ids, one text at a time, as serving does."""
    network.eval()
    with torch.no_grad():
        found = [network(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)) for ids in rows]
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def onnx_logits(path: Path, rows: list[list[int]]) -> np.ndarray:
    """Return the logits (texts, 3) of the ONNX model at `path`, one text at a time, in the session that serves."""
    from models.sentiment.transformer import logits_of, open_session

    session = open_session(path)
    return np.concatenate([logits_of(session, ids)[None] for ids in rows])
