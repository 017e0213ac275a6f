"""MS-STS VIS: parts that the method adds to SeqFormer (arXiv:2203.13253); docs/methods/msts.md."""
