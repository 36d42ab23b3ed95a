"""Exchange of datasets with other programs: exports in their formats, and imports from them."""
