"""The commands of `gowork`, a module for each. A module is imported when its command is called."""
