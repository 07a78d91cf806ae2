"""The slow, obvious reference: each formula of the algorithm description written once, as plain loops.

Nothing here imports the library. Tests compare the library against these functions on tiny inputs.
"""
