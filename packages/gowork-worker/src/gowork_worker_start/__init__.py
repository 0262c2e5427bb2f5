"""Where `gowork-worker` begins: outside of the namespace `gowork`, which another project may have taken."""
