"""The command line: `mae-jax COMMAND`, one module per command."""
