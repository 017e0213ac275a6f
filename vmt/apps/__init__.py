"""What the commands do; ``vmt.cli`` holds their arguments."""
