"""Which queries of a frame are objects, and which objects of earlier frames they are."""
