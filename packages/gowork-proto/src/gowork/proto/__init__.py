"""Generated from the protos beside this file by `nox -s protos`; the protos' comments are the reference."""
