"""Backends: exporter and runner of one runtime, one file each."""
