"""Tubes through whole videos: the rules of every data set, tube AP, quality of single tubes."""
