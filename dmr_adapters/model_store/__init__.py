"""The model store on a file system, in the reference runner's layout."""
