"""Contracts for what other packages add to this one: suites that they run on theirs, and our tests on ours.

Each module has a base class for pytest; a package derives a class whose name begins with Test, and gives the fixtures
that the base class names. pytest itself must be installed.
"""
