"""The world that the small networks see: scenes, sprites, backgrounds, and the server of its images."""
