"""The ``vmt`` console: one file per command, arguments and printing only."""
