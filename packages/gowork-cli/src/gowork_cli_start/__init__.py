"""Starts the command `gowork`. It is outside of the namespace `gowork`, which another project may have taken."""
