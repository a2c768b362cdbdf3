"""The command line: options made from the requests, and one file a family of commands."""
