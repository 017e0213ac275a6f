"""Builds everything from a config."""
