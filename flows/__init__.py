"""Command line and Prefect flow, which parse arguments, call the other packages and print results."""
