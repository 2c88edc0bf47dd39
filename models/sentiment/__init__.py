"""Sentiment of texts: a transformer for English and a student for all languages, a cache before, words behind."""

from models.sentiment.cascade import Cascade
from models.sentiment.levelled import LevelledCascade
from models.sentiment.student import Student
from models.sentiment.transformer import Sentiment, Transformer, WeightsError

__all__ = ["Cascade", "LevelledCascade", "Sentiment", "Student", "Transformer", "WeightsError"]
