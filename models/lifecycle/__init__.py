"""The life of a model: learners beside each other, signed snapshots of them, and the scorers that workers use."""
