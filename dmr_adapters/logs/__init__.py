"""What the service and its engines said lately, kept in memory for whoever asks."""
