"""From coarse masks to sharp ones."""
