"""Use cases of the model runner, written against the ports alone."""
