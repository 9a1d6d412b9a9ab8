"""One module a command; see `interceptor.cli`."""
