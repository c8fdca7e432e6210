"""
The show: a registry on loopback, images made of what is on this machine, a pull of them.
"""
