"""TLS of the service's own listener: certificates it is given, or makes for itself."""
