"""Masks frame by frame: BDD100K MOTS, HOTA and frame AP, and the files they read."""
