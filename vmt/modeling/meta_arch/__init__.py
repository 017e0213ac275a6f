"""Whole networks: wiring only."""
