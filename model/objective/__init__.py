"""What training minimizes: the losses of Eq. 2 and 3, noise, and conditions left out at random."""
