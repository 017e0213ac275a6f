"""From annotation files to records and clips."""
