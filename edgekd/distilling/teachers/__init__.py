"""Where teachers come from, one file each."""
