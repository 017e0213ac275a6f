"""RefineVIS's parts (arXiv:2306.04774): queries of a tracklet attend to each other over time."""
