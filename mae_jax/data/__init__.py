"""From any plate to batches: indexes of screens, readers of images, pipelines of crops."""
