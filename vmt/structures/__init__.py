"""Records that pass from room to room, and the formats they come in."""
