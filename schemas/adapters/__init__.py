"""Adapters: what producers already send, translated into the fields of the native event.

An adapter takes decoded JSON and gives a dict that `schemas.wire` then holds to the same contract as a native event.
"""
