"""Small networks of the real classes, saved in the real file formats, one module each."""
