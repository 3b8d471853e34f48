"""HTTP to engines over unix sockets and loopback TCP."""
