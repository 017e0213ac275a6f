"""Calls the scoring package."""
