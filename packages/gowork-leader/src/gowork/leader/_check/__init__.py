"""The command `gowork worker-check` plays a leader to a worker of any language, and says which rules it keeps."""
