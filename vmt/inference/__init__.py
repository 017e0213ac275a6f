"""Videos of any length through a model: frames in, finished tracklets out."""
