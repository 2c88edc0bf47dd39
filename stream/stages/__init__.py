"""Functions over a batch, in order: decode, gate, sentiment, features, predict, decide."""
