"""Learning and scoring. Pure: no network, no clock of its own; time is always an argument."""
