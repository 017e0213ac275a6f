"""Annotations as other tools write them, read for ``vmt convert-annotations``."""
