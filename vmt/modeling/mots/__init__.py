"""QDTrack's network: a two-stage detector with masks, and embeddings learnt quasi-densely."""
