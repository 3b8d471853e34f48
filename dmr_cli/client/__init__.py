"""The client half: a thin, fast shell over the HTTP interface of a model runner."""
