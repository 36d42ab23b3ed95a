"""What runs after what: Prefect flows and the command line. No computation here."""
