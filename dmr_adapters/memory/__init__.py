"""Memory: what the machine has, and what models were seen to need."""
