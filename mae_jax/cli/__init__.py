"""The command line: `mae-jax COMMAND`, one module a command."""
