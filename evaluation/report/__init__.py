"""Reports of evaluations: one document, written as Markdown and as a self-contained HTML page."""
