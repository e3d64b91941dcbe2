"""One folder per network, and the registry by which everything else finds them."""
