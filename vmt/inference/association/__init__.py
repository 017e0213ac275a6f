"""How what a network saw in successive windows becomes tracks of the video."""
