"""Images from jobs: what the command line, the server and the page share."""
