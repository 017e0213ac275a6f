"""Networks that sharpen masks that are given."""
