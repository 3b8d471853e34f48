"""What stands between the network and the routes: paths, hosts, origins, the key, sizes of bodies.

Each piece is a pure-ASGI layer that looks at the request's head alone, and refuses in the words of the dialect that the
path belongs to.
"""
