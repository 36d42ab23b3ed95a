"""Small networks of the libraries' real classes, saved in the real file formats; one module for each network."""
