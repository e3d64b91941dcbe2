"""Masked U-Nets."""
