"""Command line and Prefect flow: they parse, call the packages below and print. No computation here."""
