"""Files of masks in any of the usual forms: read frame by frame, written back with other masks."""
