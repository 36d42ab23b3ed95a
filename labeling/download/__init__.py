"""Download: the list of URLs, fetching, screening, and the files of `images/`."""
