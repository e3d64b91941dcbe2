"""Attention backends and the CPU thread pool: how something is computed, never what."""
