"""Building blocks of networks: pure functions and small modules, without files or training."""
