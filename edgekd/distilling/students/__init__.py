"""Where students come from, one file each."""
