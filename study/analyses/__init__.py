"""Analyses by name: one file each, see `study.analysis`. A new analysis is one new file."""
