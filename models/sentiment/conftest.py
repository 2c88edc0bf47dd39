"""Modules that need torch are left out of doctest collection where it is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["train.py", "network.py", "export.py", "package.py"]
