"""Values of the model runner: parsed once, frozen, and free of I/O."""
