"""A small trained network and the scans it was tested on: everything can be tried offline."""
