"""The web page of `subject-diffusion explore`."""
