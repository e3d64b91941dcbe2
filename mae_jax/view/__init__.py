"""A local page to look at embeddings: plates, a map of all wells, images and neighbors."""
