"""The fixtures of gowork-testing for pytest."""
