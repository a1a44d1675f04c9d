"""The machines that can time an artifact, one file each."""
