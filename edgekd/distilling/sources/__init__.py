"""Where images and labels come from; each file is a part."""
