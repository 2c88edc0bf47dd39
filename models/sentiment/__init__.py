"""Sentiment of marketing texts: a small transformer on the CPU, a cache before it and a word table behind it."""

from models.sentiment.cascade import Cascade
from models.sentiment.transformer import Sentiment, Transformer, WeightsError

__all__ = ["Cascade", "Sentiment", "Transformer", "WeightsError"]
