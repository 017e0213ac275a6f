"""Reading, checking, converting and writing weights."""
