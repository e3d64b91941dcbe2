"""One reader per source layout; each returns an index."""
