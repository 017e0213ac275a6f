"""Where masks lose detail: ground truth per level and the detector that learns it."""
