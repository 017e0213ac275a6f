"""Masks on frames."""
