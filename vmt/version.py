"""The version of the package, and nothing else: setup.py reads it without importing torch."""

__version__ = "0.2.0"
