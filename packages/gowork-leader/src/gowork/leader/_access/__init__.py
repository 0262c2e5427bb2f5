"""Who may do what: identities, roles, the access file, and the record of what was denied."""
