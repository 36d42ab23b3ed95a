"""The server: images over HTTP for programs and for people, from one model and one queue."""
