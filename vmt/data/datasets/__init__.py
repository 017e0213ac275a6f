"""Annotation formats and category lists."""
