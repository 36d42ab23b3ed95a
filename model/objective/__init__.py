"""The training objective: the losses of Eq. 2 and 3, the noise schedule and randomly dropped conditions."""
