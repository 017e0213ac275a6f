"""The base detector, SeqFormer."""
