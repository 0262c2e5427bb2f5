"""Where `gowork-leader` begins: outside of the namespace `gowork`, which another project may have taken."""
