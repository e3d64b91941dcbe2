"""Pictures: contrast and colors, panels of crops, projections of embeddings, plots."""
