"""The command line of gowork. It begins in gowork.cli.main; gowork.cli.root has the group of commands."""
