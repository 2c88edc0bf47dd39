"""Sentiment of texts: a transformer for English, a student for all languages, a cascade of levels over both."""

from models.sentiment.cascade import Cascade
from models.sentiment.student import Student
from models.sentiment.transformer import Sentiment, Transformer, WeightsError

__all__ = ["Cascade", "Sentiment", "Student", "Transformer", "WeightsError"]
