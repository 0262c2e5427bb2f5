"""The command `gowork worker-check` plays a leader to a worker of any language, and tells which rules it keeps."""
