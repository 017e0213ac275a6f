"""Mask2Former: queries that read a frame where their masks lie. MinVIS is the same on videos."""
