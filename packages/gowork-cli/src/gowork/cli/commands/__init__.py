"""The commands of `gowork`, a module each. They are imported when they are called."""
