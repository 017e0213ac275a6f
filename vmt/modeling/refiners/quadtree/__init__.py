"""Trees of incoherent points: built from scores, limited, and written back into masks."""
