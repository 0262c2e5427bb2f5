"""Where `gowork` begins: outside of the namespace `gowork`, which another project may have taken."""
