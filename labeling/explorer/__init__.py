"""Questions about a dataset that a person looks through: pages, facets, the story of an image, thumbnails."""
