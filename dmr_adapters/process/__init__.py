"""Child processes on POSIX systems: started, drained, stopped and never left behind."""
