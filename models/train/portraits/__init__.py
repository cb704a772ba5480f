"""Training of the network of portraits: one person's part of a picture to joints and bones."""
