"""Settings, storage, logging and deployment files. Imports no other package of the project."""
