"""Stages, dependencies and outs as DVC knows them; the only room that uses DVC's internals.

In: a checkout, paths, hashes. Out: stages, lock files of any commit, files brought from the cache
or the remote. The rooms above it may call it.
"""
