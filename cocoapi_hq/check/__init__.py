"""Every defect of a file in one run: files, their masks, the images that they list."""
