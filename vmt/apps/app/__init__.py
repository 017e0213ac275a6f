"""What ``vmt app`` does: a page in the browser that finds, draws, sharpens and saves objects."""
