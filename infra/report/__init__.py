"""Parts of reports that are Markdown and one HTML page: the document as data, its tables, charts and galleries."""
