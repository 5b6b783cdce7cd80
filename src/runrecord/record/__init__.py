"""The record of a run: the folder format, its writer and its reader."""
