"""Contracts: what enters nudge and what leaves it. Imports nothing else of nudge."""
