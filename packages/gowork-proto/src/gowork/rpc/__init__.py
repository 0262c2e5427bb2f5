"""The gRPC ground that gowork's packages share: channels, errors on the wire, limits, reflection, a probe listener."""
