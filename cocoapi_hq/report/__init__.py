"""Scores to look at: text, and one HTML file with everything inside."""
