"""One file a source, imported when it is opened: a service that reads a file needs no client of a server."""
