"""`bench`: how long one inference of an artifact takes on a device."""
