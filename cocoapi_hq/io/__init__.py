"""What is read and written: run lengths, JSON, lists of files, tables of text."""
