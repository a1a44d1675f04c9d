"""Sets of students that can be searched, one file each."""
