"""MaskDINO (arXiv:2206.02777): boxes and masks of one image by queries that the encoder selects."""
