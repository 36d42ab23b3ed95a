"""The world of the small networks: scenes, sprites, backgrounds, and a server for its images."""
