"""`interceptor run`: system containers without an engine.

What an engine would do around the OCI runtime – an image into layers, layers into a root filesystem, a network, files
like /etc/resolv.conf, and taking all of it away again – and nothing of what the runtime and the supervisor do.
"""
