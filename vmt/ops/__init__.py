"""Pure functions on tensors; each has a plain PyTorch form."""
