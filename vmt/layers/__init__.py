"""Modules that know no task."""
