"""One mask is enough: a mask of any frame becomes a tracklet of the whole video."""
